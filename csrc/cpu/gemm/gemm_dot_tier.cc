// Vector kernels: a few rows of A times a panel, sums in registers, A broadcast from memory.
#include <cstring>

#include "cpu/gemm/gemm_dot.h"
#include "cpu/gemm/gemm_expand.h"
#include "cpu/gemm/gemm_tier.h"

#if !VK_GEMM_MMA

namespace vk::VK_TIER {
namespace {

constexpr size_t kMaxRows = 6;

// Vectors of a panel that are summed at once for `rows` rows: as many as fit into the registers
// besides B and the broadcast value. One row takes more, to hide the latency of its few sums.
constexpr size_t VectorsFor(size_t rows) {
  if (kLanes == 16) return 4;
  if (kManyRegisters) return rows == 1 ? 8 : 4;
  return rows == 1 ? 8 : rows == 2 ? 4 : 2;
}

// Up to this many rows all sums of a panel fit into registers, so the panel is read once and K is
// not split.
constexpr size_t kFewRows = kLanes == 16 ? kMaxRows : 1;

template <class Dot>
constexpr size_t kBVectorBytes = kLanes * kColumnBytes<Dot>;
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

// One part of a step. All columns of B are read before the rows' values, each of which is used up
// at once: with rows inside, compilers keep every row's value and spill sums. One row has more
// columns than there is room for.
template <class Dot, size_t kPart, size_t kRows, size_t kVectors>
HWY_INLINE void AddPart(typename Dot::Sum (&sum)[kRows][kVectors], const char* a, size_t a_stride,
                        const char* b) {
  const auto load = [b](size_t v) VK_INLINE_LAMBDA {
    return Dot::template Load<kPart>(b + v * kBVectorBytes<Dot>);
  };
  a += kPart * kPartABytes;
  if constexpr (kRows == 1) {
    const auto value = Dot::Broadcast(a);
    for (size_t v = 0; v < kVectors; ++v) sum[0][v] = Dot::Add(sum[0][v], value, load(v));
  } else {
    decltype(load(0)) column[kVectors];
    for (size_t v = 0; v < kVectors; ++v) column[v] = load(v);
    for (size_t r = 0; r < kRows; ++r) {
      const auto value = Dot::Broadcast(a + r * a_stride);
      for (size_t v = 0; v < kVectors; ++v) sum[r][v] = Dot::Add(sum[r][v], value, column[v]);
    }
  }
}

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
  for (size_t s = 0; s < steps; ++s, a += kABytes<Dot>, b += kBStepBytes<Dot>) {
    fetcher.Fetch();
    AddPart<Dot, 0>(sum, a, a_stride, b);
    if constexpr (Dot::kParts == 2) AddPart<Dot, 1>(sum, a, a_stride, b);
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

size_t StripsOf(const GemmBlock& block) { return CeilDiv(block.rows, kMaxRows); }

// How often MultiplyStrips prefetches where there are more than kFewRows rows, or the sums are
// those of a panel.
size_t FetchesOf(const GemmBlock& block) {
  return StripsOf(block) * (kPanel / kLanes / VectorsFor(kMaxRows)) * block.steps;
}

// `b_bytes`: what one part of B takes in memory.
Fetcher MakeFetcher(const GemmBlock& block, size_t b_bytes) {
  if (block.near) return Fetcher(nullptr, 0, 0);
  // A panel that is read once is prefetched shortly before its use, and the prefetch runs on into
  // the next panel.
  if (block.rows <= kFewRows) return Fetcher(block.b + kFetchAhead, b_bytes, block.steps);
  return Fetcher(block.b_next, b_bytes, FetchesOf(block));
}

template <class Dot>
void MultiplyStrips(const GemmBlock& block, Fetcher fetcher) {
  using Rows = void(const GemmBlock&, size_t, Fetcher&);
  static constexpr Rows* kRows[kMaxRows] = {MultiplyRows<Dot, 1>, MultiplyRows<Dot, 2>,
                                            MultiplyRows<Dot, 3>, MultiplyRows<Dot, 4>,
                                            MultiplyRows<Dot, 5>, MultiplyRows<Dot, 6>};
  size_t row = 0;
  for (size_t left = StripsOf(block); left > 0; --left) {
    // Strips of nearly equal height: 8 rows are 4 + 4, since 6 + 2 would leave lanes idle.
    const size_t rows = CeilDiv(block.rows - row, left);
    kRows[rows - 1](block, row, fetcher);
    row += rows;
  }
}

template <class Dot>
void Multiply(const GemmBlock& block) {
  MultiplyStrips<Dot>(block, MakeFetcher(block, block.steps * kBStepBytes<Dot>));
}

// A part of a panel, in the order in which the loops read it: it stays in the L1 cache while all
// rows are multiplied with it.
constexpr size_t kPartBytes = 32768;

// Where this many rows share a part of B, widening it once is cheaper than widening it for each
// strip of rows.
constexpr size_t kDirectRows = 4 * kMaxRows;

// What a part of a vector of columns takes widened.
constexpr size_t kWideBytes = kLanes * sizeof(float);

template <class Dot>
HWY_INLINE void Widen(const char* b, char* to) {
  const auto store = [to](size_t part, auto value) VK_INLINE_LAMBDA {
    std::memcpy(to + part * kPanel / kLanes * kWideBytes, &value, sizeof(value));
  };
  store(0, Dot::template Load<0>(b));
  if constexpr (Dot::kParts == 2) store(1, Dot::template Load<1>(b));
}

template <class Dot>
void MultiplyWidened(const GemmBlock& block) {
  if (block.rows <= kDirectRows) return Multiply<Dot>(block);
  alignas(64) char wide[kPartBytes];
  for (size_t s = 0; s < block.steps; ++s) {
    for (size_t v = 0; v < kPanel / kLanes; ++v) {
      Widen<Dot>(block.b + s * kBStepBytes<Dot> + v * kBVectorBytes<Dot>,
                 wide + (s * Dot::kParts * kPanel / kLanes + v) * kWideBytes);
    }
  }
  GemmBlock widened = block;
  widened.b = wide;
  widened.steps *= Dot::kParts;
  MultiplyStrips<typename Dot::Wide>(widened, MakeFetcher(widened, block.steps * kBStepBytes<Dot>));
}

template <class Dot>
void PackRow(char* to, size_t group_stride, size_t row, const void* from, size_t depth) {
  to += row * group_stride;
  // The last step's values past `depth` meet zeros of B, but must not be NaN.
  if (depth % Dot::kDepth != 0) {
    std::memset(to + depth / Dot::kDepth * kABytes<Dot>, 0, kABytes<Dot>);
  }
  Dot::PackRow(to, from, depth);
}

#if defined(__AVX512BF16__)
// Compact weights, expanded in registers.
template <size_t kRows>
void MultiplyCompactRows(const GemmBlock& block, const GemmCompact& weights) {
  constexpr size_t vectors = kPanel / kLanes;
  VF sum[kRows][vectors];
  for (auto& row : sum) {
    for (VF& value : row) value = hn::Zero(DF());
  }
  Expander expander(weights);
  const char* a = block.a;
  for (size_t s = 0; s < block.steps; ++s, a += kABytes<DotBf16>) {
    __m512bh column[vectors];
    expander.NextRow(column);
    for (size_t r = 0; r < kRows; ++r) {
      const __m512bh value = DotBf16::Broadcast(a + r * block.a_group_stride);
      for (size_t v = 0; v < vectors; ++v) sum[r][v] = DotBf16::Add(sum[r][v], value, column[v]);
    }
  }
  float* sums = static_cast<float*>(block.sums);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < vectors; ++v) StoreSum(sum[r][v], sums + r * kPanel + v * kLanes);
  }
}

// For more rows: some steps at a time are expanded into the L1 cache and serve all rows.
constexpr size_t kRegisterRows = 6, kExpandedSteps = 64, kCompactRows = 64;

void MultiplyExpanded(const GemmBlock& block, const GemmCompact& weights) {
  constexpr size_t bytes = kBStepBytes<DotBf16>;
  alignas(64) char expanded[kExpandedSteps * bytes];
  Expander expander(weights);
  GemmBlock part = block;
  part.b = expanded;
  for (size_t s = 0; s < block.steps; s += part.steps) {
    part.steps = HWY_MIN(kExpandedSteps, block.steps - s);
    for (size_t row = 0; row < part.steps; row += kCompactRowMultiple) {
      expander.Next<kCompactRowMultiple, false>(expanded + row * bytes);
    }
    part.a = block.a + s * kABytes<DotBf16>;
    part.first = s == 0;
    // Prefetches are spread evenly: more at once than the memory system takes would stall the
    // arithmetic.
    const char* ahead = weights.data + s * kCompactRowBytes + kFetchAhead;
    MultiplyStrips<DotBf16>(part, Fetcher(ahead, part.steps * kCompactRowBytes, FetchesOf(part)));
  }
}

void MultiplyCompact(const GemmBlock& block, const GemmCompact& weights) {
  using Rows = void(const GemmBlock&, const GemmCompact&);
  static constexpr Rows* kRows[kRegisterRows] = {MultiplyCompactRows<1>, MultiplyCompactRows<2>,
                                                 MultiplyCompactRows<3>, MultiplyCompactRows<4>,
                                                 MultiplyCompactRows<5>, MultiplyCompactRows<6>};
  if (block.rows > kRegisterRows) return MultiplyExpanded(block, weights);
  kRows[block.rows - 1](block, weights);
}
#endif

template <class Dot, void (*kMultiply)(const GemmBlock&), size_t kStepBytes>
constexpr GemmKernel MakeKernel() {
  constexpr size_t steps = kPartBytes / kStepBytes;
  GemmKernel kernel{Dot::kDepth, 1, kABytes<Dot>, steps, kFewRows, Dot::kShift, PackRow<Dot>,
                    kMultiply,   0, steps / 2};
  kernel.row_step_bytes = kABytes<Dot>;
  return kernel;
}

template <class Dot>
constexpr GemmKernel MakeDirect() {
  return MakeKernel<Dot, Multiply<Dot>, kBStepBytes<Dot>>();
}

#if defined(__AVX512BF16__)
constexpr GemmKernel MakeCompact() {
  GemmKernel kernel = MakeDirect<DotBf16>();
  kernel.compact_rows = kCompactRows;
  kernel.multiply_compact = MultiplyCompact;
  kernel.prefers_compact = true;
  return kernel;
}
#endif

template <class Dot>
constexpr GemmKernel MakeWidened() {
  return MakeKernel<Dot, MultiplyWidened<Dot>, Dot::kParts * kPanel * sizeof(float)>();
}

// Values that no instruction multiplies as they lie in B are widened.
template <class Dot>
constexpr GemmKernel Make() {
  if constexpr (Dot::kParts == 1) {
    return MakeDirect<Dot>();
  } else {
    return MakeWidened<Dot>();
  }
}

}  // namespace

const GemmKernel gemm_dot_f32 = MakeDirect<DotF32>();
const GemmKernel gemm_dot_f16 = MakeWidened<DotF16>();
#if !VK_GEMM_MMLA
#if defined(__AVX512BF16__)
const GemmKernel gemm_dot_bf16 = MakeCompact();
#else
const GemmKernel gemm_dot_bf16 = Make<DotBf16>();
#endif
const GemmKernel gemm_dot_i8 = Make<DotI8>();
const GemmKernel gemm_dot_u4 = MakeWidened<DotU4>();
#endif

}  // namespace vk::VK_TIER
#endif  // !VK_GEMM_MMA
