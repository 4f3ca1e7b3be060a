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

// A dot product says how one step multiplies, in kParts parts that take turns so that only one
// part of B occupies registers: `Load` reads a part of one vector of columns of B, `Broadcast` the
// same part of a row of A, kPartABytes as `PackRow` laid them out, and `Add` adds their product.
constexpr size_t kPartABytes = 4;
template <class Dot>
constexpr size_t kABytes = Dot::kParts * kPartABytes;
// What a step of one column takes in B.
template <class Dot>
constexpr size_t kColumnBytes = Dot::kDepth * sizeof(typename Dot::Value);

HWY_INLINE VF BroadcastFloat(const char* a) {
#if HWY_ARCH_PPC
  // One instruction; GCC takes three for a float, which it holds in double precision first.
  return hn::BitCast(DF(), hn::Set(DI(), Read<int32_t>(a)));
#else
  return hn::Set(DF(), Read<float>(a));
#endif
}
HWY_INLINE VI BroadcastInts(const char* a) { return hn::Set(DI(), Read<int32_t>(a)); }

struct DotF32 {
  using Value = float;
  using Sum = VF;
  static constexpr size_t kDepth = 1, kParts = 1;
  static constexpr int32_t kShift = 0;
  template <size_t kPart = 0>
  static HWY_INLINE VF Load(const char* b) {
    return hn::LoadU(DF(), reinterpret_cast<const float*>(b));
  }
  static HWY_INLINE VF Broadcast(const char* a) { return BroadcastFloat(a); }
  static HWY_INLINE Sum Add(Sum sum, VF a, VF b) { return hn::MulAdd(a, b, sum); }
  static void PackRow(char* to, const void* from, size_t depth) {
    std::memcpy(to, from, depth * sizeof(float));
  }
};

// The float16 arithmetic of AVX512-FP16 would sum in float16; both sides are widened instead.
struct DotF16 {
  using Wide = DotF32;
  using Value = hwy::float16_t;
  using Sum = VF;
  static constexpr size_t kDepth = 1, kParts = 1;
  static constexpr int32_t kShift = 0;
  template <size_t kPart = 0>
  static HWY_INLINE VF Load(const char* b) {
    return LoadF32(reinterpret_cast<const hwy::float16_t*>(b));
  }
  static HWY_INLINE VF Broadcast(const char* a) { return BroadcastFloat(a); }
  static HWY_INLINE Sum Add(Sum sum, VF a, VF b) { return hn::MulAdd(a, b, sum); }
  static void PackRow(char* to, const void* from, size_t depth) {
    WidenRow<Value>(reinterpret_cast<float*>(to), from, depth);
  }
};

#if defined(__AVX512BF16__)
struct DotBf16 {
  using Value = hwy::bfloat16_t;
  using Sum = VF;
  static constexpr size_t kDepth = 2, kParts = 1;
  static constexpr int32_t kShift = 0;
  template <size_t kPart = 0>
  static HWY_INLINE __m512bh Load(const char* b) {
    return (__m512bh)_mm512_loadu_si512(b);
  }
  static HWY_INLINE __m512bh Broadcast(const char* a) {
    return (__m512bh)_mm512_set1_epi32(Read<int32_t>(a));
  }
  static HWY_INLINE Sum Add(Sum sum, __m512bh a, __m512bh b) {
    return Sum{_mm512_dpbf16_ps(sum.raw, a, b)};
  }
  static void PackRow(char* to, const void* from, size_t depth) {
    std::memcpy(to, from, depth * sizeof(Value));
  }
};
#else
struct DotBf16 {
  using Wide = DotF32;
  using Value = hwy::bfloat16_t;
  using Sum = VF;
  // The even values of K, then the odd ones.
  static constexpr size_t kDepth = 2, kParts = 2;
  static constexpr int32_t kShift = 0;
  template <size_t kPart>
  static HWY_INLINE VF Load(const char* b) {
    const DU du;
    const VU32 pair = hn::LoadU(du, reinterpret_cast<const uint32_t*>(b));
    if (kPart == 1) return hn::BitCast(DF(), hn::And(pair, hn::Set(du, 0xFFFF0000u)));
    return hn::BitCast(DF(), hn::ShiftLeft<16>(pair));
  }
  static HWY_INLINE VF Broadcast(const char* a) { return BroadcastFloat(a); }
  static HWY_INLINE Sum Add(Sum sum, VF a, VF b) { return hn::MulAdd(a, b, sum); }
  static void PackRow(char* to, const void* from, size_t depth) {
    WidenRow<Value>(reinterpret_cast<float*>(to), from, depth);
  }
};
#endif

#if defined(__AVX512VNNI__) || HWY_ARCH_PPC
// vpdpbusd, vmsummbm: to each sum, four products of unsigned with signed bytes.
HWY_INLINE VI AddFours(VI sum, VI bytes, VI signed_bytes) {
#if HWY_ARCH_PPC
  using Signed = __vector signed char;
  using Unsigned = __vector unsigned char;
  return VI{vec_msum(reinterpret_cast<Signed>(signed_bytes.raw),
                     reinterpret_cast<Unsigned>(bytes.raw), sum.raw)};
#else
  return VI{_mm512_dpbusd_epi32(sum.raw, bytes.raw, signed_bytes.raw)};
#endif
}

// a is shifted by 128 into the unsigned range.
struct DotI8 {
  using Value = int8_t;
  using Sum = VI;
  static constexpr size_t kDepth = 4, kParts = 1;
  static constexpr int32_t kShift = 128;
  template <size_t kPart = 0>
  static HWY_INLINE VI Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE VI Broadcast(const char* a) { return BroadcastInts(a); }
  static HWY_INLINE Sum Add(Sum sum, VI a, VI b) { return AddFours(sum, a, b); }
  static void PackRow(char* to, const void* from, size_t depth) {
    const uint8_t* in = static_cast<const uint8_t*>(from);
    for (size_t k = 0; k < depth; ++k) to[k] = static_cast<char>(in[k] ^ 0x80);
  }
};
#elif VK_INT8_DOT
struct DotI8 {
  using Value = int8_t;
  using Sum = VI;
  static constexpr size_t kDepth = 4, kParts = 1;
  static constexpr int32_t kShift = 0;
  template <size_t kPart = 0>
  static HWY_INLINE VI Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE VI Broadcast(const char* a) { return BroadcastInts(a); }
  static HWY_INLINE Sum Add(Sum sum, VI a, VI b) {
#if defined(__ARM_FEATURE_SVE)
    return svdot_s32(sum, svreinterpret_s8_s32(b), svreinterpret_s8_s32(a));
#else
    return Sum(vdotq_s32(sum.raw, vreinterpretq_s8_s32(b.raw), vreinterpretq_s8_s32(a.raw)));
#endif
  }
  static void PackRow(char* to, const void* from, size_t depth) { std::memcpy(to, from, depth); }
};
#else
// Pairs of int16, whose products pmaddwd adds.
struct DotI16 {
  using Value = int16_t;
  using Sum = VI;
  static constexpr size_t kDepth = 2, kParts = 1;
  template <size_t kPart = 0>
  static HWY_INLINE VI Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE VI Broadcast(const char* a) { return BroadcastInts(a); }
  static HWY_INLINE Sum Add(Sum sum, VI a, VI b) {
    const D16 d16;
    sum = hn::Add(sum, hn::WidenMulPairwiseAdd(DI(), hn::BitCast(d16, a), hn::BitCast(d16, b)));
    // Compilers would add several products first, all of them at once, and spill them.
#if HWY_ARCH_X86
    asm("" : "+v"(sum.raw));
#elif HWY_ARCH_ARM_A64
    asm("" : "+w"(sum.raw));
#endif
    return sum;
  }
};

// The four bytes of a step as two such pairs, even and odd.
struct DotI8 {
  using Wide = DotI16;
  using Value = int8_t;
  using Sum = VI;
  static constexpr size_t kDepth = 4, kParts = 2;
  static constexpr int32_t kShift = 0;
  template <size_t kPart>
  static HWY_INLINE VI Load(const char* b) {
    const D16 d16;
    const auto bytes = hn::LoadU(d16, reinterpret_cast<const int16_t*>(b));
    const auto upper = kPart == 1 ? bytes : hn::ShiftLeft<8>(bytes);
    return hn::BitCast(DI(), hn::ShiftRight<8>(upper));
  }
  static HWY_INLINE VI Broadcast(const char* a) { return BroadcastInts(a); }
  static HWY_INLINE Sum Add(Sum sum, VI a, VI b) { return DotI16::Add(sum, a, b); }
  static void PackRow(char* to, const void* from, size_t depth) {
    constexpr size_t kPlace[4] = {0, 2, 1, 3};
    const int8_t* in = static_cast<const int8_t*>(from);
    int16_t* out = reinterpret_cast<int16_t*>(to);
    for (size_t k = 0; k < depth; ++k) out[k - k % 4 + kPlace[k % 4]] = in[k];
  }
};
#endif

// Bytes of B from 0 to 15 times int8 of A: no instruction needs A shifted, and no pair of products
// leaves int16.
#if VK_INT8_DOT
using DotSmall = DotI8;
#else
struct DotSmall {
  using Value = uint8_t;
  using Sum = VI;
  static constexpr size_t kDepth = 4, kParts = 1;
  static constexpr int32_t kShift = 0;
  template <size_t kPart = 0>
  static HWY_INLINE VI Load(const char* b) {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(b));
  }
  static HWY_INLINE VI Broadcast(const char* a) { return BroadcastInts(a); }
  static HWY_INLINE Sum Add(Sum sum, VI a, VI b) {
#if defined(__AVX512VNNI__) || HWY_ARCH_PPC
    return AddFours(sum, b, a);
#else
    const D16 d16;
    const hn::Repartition<uint8_t, DI> du8;
    const hn::Repartition<int8_t, DI> di8;
    const auto pairs = hn::SatWidenMulPairwiseAdd(d16, hn::BitCast(du8, b), hn::BitCast(di8, a));
    return DotI16::Add(sum, hn::BitCast(DI(), pairs), hn::BitCast(DI(), hn::Set(d16, 1)));
#endif
  }
};
#endif

// Words of eight values of K of 4 bits: those of the first four in the lower halves of the bytes.
struct DotU4 {
  using Wide = DotSmall;
  using Value = uint32_t;
  using Sum = VI;
  static constexpr size_t kDepth = 8, kParts = 2;
  static constexpr int32_t kShift = 0;
  template <size_t kPart>
  static HWY_INLINE VI Load(const char* b) {
    const DU du;
    const VU32 words = hn::LoadU(du, reinterpret_cast<const uint32_t*>(b));
    const VU32 halves = kPart == 1 ? VU32(hn::ShiftRight<4>(words)) : words;
    return hn::BitCast(DI(), hn::And(halves, hn::Set(du, 0x0F0F0F0Fu)));
  }
  static HWY_INLINE VI Broadcast(const char* a) { return BroadcastInts(a); }
  static HWY_INLINE Sum Add(Sum sum, VI a, VI b) { return DotSmall::Add(sum, a, b); }
  static void PackRow(char* to, const void* from, size_t depth) { std::memcpy(to, from, depth); }
};
template <>
constexpr size_t kColumnBytes<DotU4> = sizeof(DotU4::Value);

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_DOT_H_
