// Vector kernels: a few rows of A times a panel, sums in registers, A broadcast from memory.
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
constexpr size_t kMaxRows = 6;

// Vectors of a panel that are summed at once for `rows` rows: what the register file holds besides
// B and the broadcast. One row takes more, to hide the latency of its few sums.
constexpr size_t VectorsFor(size_t rows) {
  if (kLanes == 16) return 4;
  if (kManyRegisters) return rows == 1 ? 8 : 4;
  return rows == 1 ? 8 : rows == 2 ? 4 : 2;
}

// Up to here all sums of a panel fit into registers, so that it is read once and K is not split.
constexpr size_t kFewRows = kLanes == 16 ? kMaxRows : 1;

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

template <class Dot>
constexpr size_t kBVectorBytes = kLanes * Dot::kDepth * sizeof(typename Dot::Value);
template <class Dot>
constexpr size_t kBStepBytes = kPanel / kLanes * kBVectorBytes<Dot>;

HWY_INLINE VF LoadSum(const float* from) { return hn::LoadU(DF(), from); }
HWY_INLINE VI LoadSum(const int32_t* from) { return hn::LoadU(DI(), from); }
HWY_INLINE void StoreSum(VF sum, float* to) { hn::StoreU(sum, DF(), to); }
HWY_INLINE void StoreSum(VI sum, int32_t* to) { hn::StoreU(sum, DI(), to); }

template <class Dot>
using SumLane = hn::TFromV<typename Dot::Sum>;
template <class Dot>
using SumTag = hn::Rebind<SumLane<Dot>, DF>;

// kRows rows times kVectors vectors of columns.
template <class Dot, size_t kRows, size_t kVectors>
HWY_INLINE void MultiplyStrip(const char* a, size_t a_stride, const char* b, SumLane<Dot>* sums,
                              size_t steps, bool first, Fetcher& fetcher) {
  typename Dot::Sum sum[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sum[r][v] = first ? typename Dot::Sum(hn::Zero(SumTag<Dot>()))
                        : LoadSum(sums + r * kPanel + v * kLanes);
    }
  }
  for (size_t s = 0; s < steps; ++s, a += Dot::kABytes, b += kBStepBytes<Dot>) {
    fetcher.Fetch();
    for (size_t v = 0; v < kVectors; ++v) {
      const typename Dot::B column = Dot::Load(b + v * kBVectorBytes<Dot>);
      for (size_t r = 0; r < kRows; ++r) sum[r][v] = Dot::Add(sum[r][v], a + r * a_stride, column);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) StoreSum(sum[r][v], sums + r * kPanel + v * kLanes);
  }
}

template <class Dot, size_t kRows>
void MultiplyRows(const GemmBlock& block, size_t row, Fetcher& fetcher) {
  constexpr size_t vectors = VectorsFor(kRows);
  SumLane<Dot>* sums = static_cast<SumLane<Dot>*>(block.sums) + row * kPanel;
  const char* a = block.a + row * block.a_group_stride;
  for (size_t v = 0; v < kPanel / kLanes; v += vectors) {
    MultiplyStrip<Dot, kRows, vectors>(a, block.a_group_stride, block.b + v * kBVectorBytes<Dot>,
                                       sums + v * kLanes, block.steps, block.first, fetcher);
  }
}

// `b_bytes`: what one part of B takes in memory.
template <class Dot>
Fetcher MakeFetcher(const GemmBlock& block, size_t strips, size_t b_bytes) {
  if (block.near) return Fetcher(nullptr, 0, 0);
  // A panel that is read once is fetched shortly before its use, and on into the next panel.
  if (block.rows <= kFewRows) return Fetcher(block.b + kFetchAhead, b_bytes, block.steps);
  const size_t calls = strips * (kPanel / kLanes / VectorsFor(kMaxRows)) * block.steps;
  return Fetcher(block.b_next, b_bytes, calls);
}

template <class Dot>
void MultiplyStrips(const GemmBlock& block, size_t b_bytes) {
  using Rows = void(const GemmBlock&, size_t, Fetcher&);
  static constexpr Rows* kRows[kMaxRows] = {MultiplyRows<Dot, 1>, MultiplyRows<Dot, 2>,
                                            MultiplyRows<Dot, 3>, MultiplyRows<Dot, 4>,
                                            MultiplyRows<Dot, 5>, MultiplyRows<Dot, 6>};
  const size_t strips = (block.rows + kMaxRows - 1) / kMaxRows;
  Fetcher fetcher = MakeFetcher<Dot>(block, strips, b_bytes);
  size_t row = 0;
  for (size_t left = strips; left > 0; --left) {
    // Strips of nearly equal height: 8 rows are 4 + 4, since 6 + 2 would leave lanes idle.
    const size_t rows = (block.rows - row + left - 1) / left;
    kRows[rows - 1](block, row, fetcher);
    row += rows;
  }
}

template <class Dot>
void Multiply(const GemmBlock& block) {
  MultiplyStrips<Dot>(block, block.steps * kBStepBytes<Dot>);
}

// A part of a panel as the loops read it: it stays in the L1 cache while all rows pass by.
constexpr size_t kPartBytes = 32768;

// Where more rows share a part of B, widening it once is cheaper than once per strip of rows.
constexpr size_t kDirectRows = 4 * kMaxRows;

template <class Dot>
void MultiplyWidened(const GemmBlock& block) {
  if (block.rows <= kDirectRows) return Multiply<Dot>(block);
  alignas(64) float wide[kPartBytes / sizeof(float)];
  for (size_t s = 0; s < block.steps; ++s) {
    for (size_t v = 0; v < kPanel / kLanes; ++v) {
      Dot::Widen(block.b + s * kBStepBytes<Dot> + v * kBVectorBytes<Dot>,
                 wide + s * Dot::kDepth * kPanel + v * kLanes);
    }
  }
  GemmBlock widened = block;
  widened.b = reinterpret_cast<const char*>(wide);
  widened.steps *= Dot::kDepth;
  MultiplyStrips<DotF32>(widened, block.steps * kBStepBytes<Dot>);
}

template <class Dot>
void PackRow(char* to, size_t group_stride, size_t row, const void* from, size_t depth) {
  to += row * group_stride;
  // The last step's values past `depth` meet zeros of B, but must not be NaN.
  if (depth % Dot::kDepth != 0) {
    std::memset(to + depth / Dot::kDepth * Dot::kABytes, 0, Dot::kABytes);
  }
  Dot::PackRow(to, from, depth);
}

template <class Dot, void (*kMultiply)(const GemmBlock&), size_t kStepBytes>
constexpr GemmKernel MakeKernel() {
  constexpr size_t steps = kPartBytes / kStepBytes;
  return {Dot::kDepth, 1, Dot::kABytes, steps, kFewRows, Dot::kShift, PackRow<Dot>,
          kMultiply,   0, steps / 2};
}

template <class Dot>
constexpr GemmKernel MakeDirect() {
  return MakeKernel<Dot, Multiply<Dot>, kBStepBytes<Dot>>();
}

template <class Dot>
constexpr GemmKernel MakeWidened() {
  return MakeKernel<Dot, MultiplyWidened<Dot>, Dot::kDepth * kPanel * sizeof(float)>();
}

}  // namespace

const GemmKernel gemm_dot_f32 = MakeDirect<DotF32>();
#if defined(__AVX512BF16__) || VK_BF16_DOT
const GemmKernel gemm_dot_bf16 = MakeDirect<DotBf16>();
#else
const GemmKernel gemm_dot_bf16 = MakeWidened<DotBf16>();
#endif
const GemmKernel gemm_dot_f16 = MakeWidened<DotF16>();
const GemmKernel gemm_dot_i8 = MakeDirect<DotI8>();

}  // namespace vk::VK_TIER
