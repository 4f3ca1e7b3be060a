// One step of a dot product, dtype by dtype. For `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_DOT_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_DOT_H_

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/gemm/gemm_tier.h"

namespace vk::VK_TIER {
namespace {

using DI = hn::Rebind<int32_t, DF>;
using DU = hn::Rebind<uint32_t, DF>;
using VI = Sized<DI>;
using D16 = hn::Repartition<int16_t, DI>;

constexpr size_t kLanes = kFloatLanes;
template <class T>
HWY_INLINE T Read(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// A dot product says how one step multiplies: `Load` reads one vector of columns of B, `Add` adds
// its product with one step of a row of A, as `PackRow` laid it out.
struct DotF32 {
  using Value = float;
  using Sum = VF;
  using B = VF;
  static constexpr size_t kDepth = 1, kABytes = 4;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) {
    return hn::LoadU(DF(), reinterpret_cast<const float*>(b));
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, B b) {
    return hn::MulAdd(hn::Set(DF(), Read<float>(a)), b, sum);
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    std::memcpy(to, from, depth * sizeof(float));
  }
};

// The float16 arithmetic of AVX512-FP16 would sum in float16; both sides are widened instead.
struct DotF16 {
  using Value = hwy::float16_t;
  using Sum = VF;
  using B = VF;
  static constexpr size_t kDepth = 1, kABytes = 4;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) {
    return LoadF32(reinterpret_cast<const hwy::float16_t*>(b));
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, B b) { return DotF32::Add(sum, a, b); }
  static HWY_INLINE void Widen(const char* b, float* to) { hn::Store(Load(b), DF(), to); }
  static void PackRow(char* to, const void* from, size_t depth) {
    WidenRow(to, static_cast<const hwy::float16_t*>(from), depth);
  }
  template <class T>
  static void WidenRow(char* to, const T* from, size_t depth) {
    float* wide = reinterpret_cast<float*>(to);
    for (size_t k = 0; k < depth; k += kLanes) {
      const size_t count = HWY_MIN(kLanes, depth - k);
      StoreUpTo(LoadUpTo(from + k, count), wide + k, count);
    }
  }
};

#if defined(__AVX512BF16__)
struct DotBf16 {
  using Value = hwy::bfloat16_t;
  using Sum = VF;
  using B = __m512bh;
  static constexpr size_t kDepth = 2, kABytes = 4;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) { return (__m512bh)_mm512_loadu_si512(b); }
  static HWY_INLINE Sum Add(Sum sum, const char* a, B b) {
    return Sum{_mm512_dpbf16_ps(sum.raw, (__m512bh)_mm512_set1_epi32(Read<int32_t>(a)), b)};
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    std::memcpy(to, from, depth * sizeof(Value));
  }
};
#elif VK_BF16_DOT
struct DotBf16 {
  using Value = hwy::bfloat16_t;
  using Sum = VF;
  using B = VI;
  static constexpr size_t kDepth = 2, kABytes = 4;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, B b) {
    const VI pair = hn::Set(DI(), Read<int32_t>(a));
#if defined(__ARM_FEATURE_SVE)
    return svbfdot_f32(sum, svreinterpret_bf16_s32(b), svreinterpret_bf16_s32(pair));
#else
    return Sum(
        vbfdotq_f32(sum.raw, vreinterpretq_bf16_s32(b.raw), vreinterpretq_bf16_s32(pair.raw)));
#endif
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    std::memcpy(to, from, depth * sizeof(Value));
  }
};
#else
struct DotBf16 {
  using Value = hwy::bfloat16_t;
  using Sum = VF;
  struct B {
    VF even, odd;
  };
  static constexpr size_t kDepth = 2, kABytes = 8;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) {
    const DU du;
    const auto pair = hn::LoadU(du, reinterpret_cast<const uint32_t*>(b));
    return {hn::BitCast(DF(), hn::ShiftLeft<16>(pair)),
            hn::BitCast(DF(), hn::And(pair, hn::Set(du, 0xFFFF0000u)))};
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, const B& b) {
    return DotF32::Add(DotF32::Add(sum, a, b.even), a + 4, b.odd);
  }
  static HWY_INLINE void Widen(const char* b, float* to) {
    const B wide = Load(b);
    hn::Store(wide.even, DF(), to);
    hn::Store(wide.odd, DF(), to + kPanel);
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    DotF16::WidenRow(to, static_cast<const Value*>(from), depth);
  }
};
#endif

#if defined(__AVX512VNNI__) || HWY_ARCH_PPC
// vpdpbusd and vmsummbm multiply unsigned with signed bytes: a is shifted by 128 into the unsigned
// range.
struct DotI8 {
  using Value = int8_t;
  using Sum = VI;
  using B = VI;
  static constexpr size_t kDepth = 4, kABytes = 4;
  static constexpr int32_t kShift = 128;
  static HWY_INLINE B Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, B b) {
    const VI quad = hn::Set(DI(), Read<int32_t>(a));
#if HWY_ARCH_PPC
    using Signed = __vector signed char;
    using Unsigned = __vector unsigned char;
    return Sum{
        vec_msum(reinterpret_cast<Signed>(b.raw), reinterpret_cast<Unsigned>(quad.raw), sum.raw)};
#else
    return Sum{_mm512_dpbusd_epi32(sum.raw, quad.raw, b.raw)};
#endif
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    const uint8_t* in = static_cast<const uint8_t*>(from);
    for (size_t k = 0; k < depth; ++k) to[k] = static_cast<char>(in[k] ^ 0x80);
  }
};
#elif VK_INT8_DOT
struct DotI8 {
  using Value = int8_t;
  using Sum = VI;
  using B = VI;
  static constexpr size_t kDepth = 4, kABytes = 4;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, B b) {
    const VI quad = hn::Set(DI(), Read<int32_t>(a));
#if defined(__ARM_FEATURE_SVE)
    return svdot_s32(sum, svreinterpret_s8_s32(b), svreinterpret_s8_s32(quad));
#else
    return Sum(vdotq_s32(sum.raw, vreinterpretq_s8_s32(b.raw), vreinterpretq_s8_s32(quad.raw)));
#endif
  }
  static void PackRow(char* to, const void* from, size_t depth) { std::memcpy(to, from, depth); }
};
#else
// The four bytes of a step as two pairs of int16, even and odd, whose products pmaddwd adds.
struct DotI8 {
  using Value = int8_t;
  using Sum = VI;
  struct B {
    Sized<D16> even, odd;
  };
  static constexpr size_t kDepth = 4, kABytes = 8;
  static constexpr int32_t kShift = 0;
  static HWY_INLINE B Load(const char* b) {
    const D16 d16;
    const auto bytes = hn::LoadU(d16, reinterpret_cast<const int16_t*>(b));
    return {hn::ShiftRight<8>(hn::ShiftLeft<8>(bytes)), hn::ShiftRight<8>(bytes)};
  }
  static HWY_INLINE Sum Add(Sum sum, const char* a, const B& b) {
    const DI di;
    const D16 d16;
    const auto even = hn::BitCast(d16, hn::Set(di, Read<int32_t>(a)));
    const auto odd = hn::BitCast(d16, hn::Set(di, Read<int32_t>(a + 4)));
    sum = hn::Add(sum, hn::WidenMulPairwiseAdd(di, even, b.even));
    return hn::Add(sum, hn::WidenMulPairwiseAdd(di, odd, b.odd));
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    constexpr size_t kPlace[4] = {0, 2, 1, 3};
    const int8_t* in = static_cast<const int8_t*>(from);
    int16_t* out = reinterpret_cast<int16_t*>(to);
    for (size_t k = 0; k < depth; ++k) out[k - k % 4 + kPlace[k % 4]] = in[k];
  }
};
#endif

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_DOT_H_
