// Products of few rows with 4-bit weights, where as many values of K as a vector of words holds
// share a group. For `*_tier.cc` files only.
//
// Words are read as they lie in memory: lane i holds the eight columns 8 (i % 2) ... of value i / 2
// of K. Each position in the words has a vector of sums of its own, one sum for each lane, so that
// a weight costs a mask, a conversion and a multiplication, or less (wna16_arithmetic.h). Sums are
// of a * q; what zero points take away follows from the sum of a, group by group.
#ifndef VLLM_KERNELS_CPU_WNA16_WNA16_GROUPS_H_
#define VLLM_KERNELS_CPU_WNA16_WNA16_GROUPS_H_

#include <cstring>

#include "cpu/gemm/gemm_table.h"
#include "cpu/round.h"
#include "cpu/vec.h"
#include "cpu/wna16/wna16.h"
#include "cpu/wna16/wna16_arithmetic.h"

namespace vk::VK_TIER {
namespace {

template <size_t kValue>
struct Index {
  static constexpr size_t value = kValue;
};

template <size_t kFirst, size_t kEnd, class Body>
HWY_INLINE void ForIndices(const Body& body) {
  if constexpr (kFirst < kEnd) {
    body(Index<kFirst>());
    ForIndices<kFirst + 1, kEnd>(body);
  }
}

// Sums that registers hold beside weights, activations and masks.
constexpr size_t kRegisterSums = kManyRegisters ? 16 : 8;

// Positions whose sums are in registers at once: the rest comes in further passes over the words.
constexpr size_t PositionsAtOnce(size_t rows) {
  size_t positions = kPositions;
  while (positions * rows > kRegisterSums) positions /= 2;
  return positions;
}

// How far ahead words are prefetched: as B of dense products. The blocks of a panel lie behind each
// other, as panels do.
constexpr size_t kWordsAhead = 12288;

// Values of K whose words fill a line of the cache, or more.
template <class Arithmetic>
constexpr size_t kTurn = HWY_MAX(Arithmetic::kStep, size_t{8});

// Values of K that are summed at once: a group, or parts of one that would be too large.
template <class Arithmetic>
constexpr size_t RunDepth(size_t group_size) {
  return HWY_MIN(group_size, Arithmetic::kMostDepth);
}

// A packed row is what Arithmetic::Pack makes of it, then for each run:
struct RowRun {
  float sum, scale;  // of the run's values, and of them all
};

template <class Arithmetic>
HWY_INLINE size_t SumsAt(size_t depth) {
  return RoundUp(depth * Arithmetic::kPackedBytes, size_t{64});
}

template <class Arithmetic>
size_t PackedRowBytes(size_t depth, size_t group_size) {
  const size_t runs = depth / group_size * CeilDiv(group_size, RunDepth<Arithmetic>(group_size));
  return SumsAt<Arithmetic>(depth) + runs * sizeof(RowRun);
}

// Calls body(group, k, depth) for the runs of all groups.
template <class Arithmetic, class Body>
HWY_INLINE void ForRuns(size_t depth, size_t group_size, const Body& body) {
  const size_t run = RunDepth<Arithmetic>(group_size);
  for (size_t begin = 0, group = 0; begin < depth; begin += group_size, ++group) {
    for (size_t k = 0; k < group_size; k += run) {
      body(group, begin + k, HWY_MIN(run, group_size - k));
    }
  }
}

template <class Arithmetic, class T>
void PackGroups(void* to, const void* from, size_t depth, size_t group_size) {
  char* packed = static_cast<char*>(to);
  const T* values = static_cast<const T*>(from);
  RowRun* runs = reinterpret_cast<RowRun*>(packed + SumsAt<Arithmetic>(depth));
  ForRuns<Arithmetic>(depth, group_size, [&](size_t, size_t k, size_t count) VK_INLINE_LAMBDA {
    char* to_run = packed + k * Arithmetic::kPackedBytes;
    runs->scale = Arithmetic::template Pack<T>(to_run, values + k, count);
    typename Arithmetic::Sum sum = Arithmetic::Zero();
    for (size_t i = 0; i < count; i += Arithmetic::kStep) {
      sum = Arithmetic::AddRow(sum, Arithmetic::Load(to_run + i * Arithmetic::kPackedBytes));
    }
    // Every value is there for both columns of a position.
    runs->sum = static_cast<float>(hn::ReduceSum(typename Arithmetic::DSum(), sum)) / 2;
    ++runs;
  });
}

// Both columns of the positions from first / 2 on, as a block's sums lie.
constexpr size_t kColumnVectors = kWna16Columns / kFloatLanes;

// Scales and zero points of one block of columns in one group.
template <class T>
class BlockGroup {
 public:
  HWY_INLINE BlockGroup(const Wna16Panel& panel, size_t block, size_t group)
      : has_zeros_(panel.zeros != nullptr) {
    const T* scales = static_cast<const T*>(panel.scales) + group * panel.scales_stride;
    scales += block * kWna16Columns;
    const hn::CappedTag<float, kPositions> d;
    for (size_t i = 0; i < kPositions; i += hn::Lanes(d)) {
      hn::StoreInterleaved2(Widened(scales + i), Widened(scales + kPositions + i), d,
                            scales_ + 2 * i);
    }
    if (has_zeros_) {
      std::memcpy(&zeros_, panel.zeros + group * panel.zeros_stride + 2 * block, sizeof(zeros_));
    }
  }
  HWY_INLINE VF Scale(size_t vector) const {
    return hn::Load(DF(), scales_ + vector * kFloatLanes);
  }
  HWY_INLINE VF Zero(size_t vector) const {
    if (!has_zeros_) return hn::Set(DF(), 8.0f);
    const hn::RebindToUnsigned<DF> du;
    const VU32 words = hn::BitCast(du, hn::Set(hn::Repartition<uint64_t, DF>(), zeros_));
    const VU32 position = hn::ShiftRight<1>(hn::Iota(du, vector * kFloatLanes));
    const VU32 shifted = hn::Shr(words, hn::Mul(position, hn::Set(du, kPositionBits)));
    return WordsToFloat(hn::And(shifted, hn::Set(du, 15)));
  }

 private:
  static HWY_INLINE auto Widened(const T* from) {
    const hn::CappedTag<float, kPositions> d;
    if constexpr (hwy::IsSame<T, float>()) {
      return hn::LoadU(d, from);
    } else {
      return hn::PromoteTo(d, hn::LoadU(hn::Rebind<T, decltype(d)>(), from));
    }
  }

  alignas(64) float scales_[kWna16Columns];
  uint64_t zeros_;
  bool has_zeros_;
};

// kRows packed rows, from a value of K on.
struct GroupRows {
  const char* values;
  const RowRun* runs;
  size_t stride;  // bytes, of both

  HWY_INLINE const RowRun& run(size_t row) const {
    return *reinterpret_cast<const RowRun*>(reinterpret_cast<const char*>(runs) + row * stride);
  }
};

// A run's sums of one row, by position, lane by lane.
template <class Arithmetic>
using RunSums = typename Arithmetic::Sum[kPositions];

// Sums up `depth` values of K for the positions from kFirst on.
template <class Arithmetic, size_t kRows, size_t kFirst>
HWY_INLINE void SumRun(const uint32_t* words, const GroupRows& rows, size_t depth,
                       RunSums<Arithmetic>* sums) {
  constexpr size_t kCount = PositionsAtOnce(kRows);
  typename Arithmetic::Sum sum[kRows][kCount];
  for (auto& row : sum) {
    for (auto& value : row) value = Arithmetic::Zero();
  }
  for (size_t k = 0; k < depth; k += kTurn<Arithmetic>) {
    if constexpr (kFirst == 0) {
      const char* ahead = reinterpret_cast<const char*>(words + 2 * k) + kWordsAhead;
#pragma GCC unroll 2
      for (size_t i = 0; i < kTurn<Arithmetic>; i += 8) __builtin_prefetch(ahead + 8 * i, 0, 2);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < kTurn<Arithmetic>; i += Arithmetic::kStep) {
      const typename Arithmetic::Words step(words + 2 * (k + i));
      typename Arithmetic::Row a[kRows];
      for (size_t r = 0; r < kRows; ++r) {
        const char* at = rows.values + r * rows.stride + (k + i) * Arithmetic::kPackedBytes;
        a[r] = Arithmetic::Load(at);
      }
      ForIndices<kFirst, kFirst + kCount>([&](auto position) VK_INLINE_LAMBDA {
        constexpr size_t kPosition = decltype(position)::value;
        const auto weight = step.template Value<kPosition>();
        for (size_t r = 0; r < kRows; ++r) {
          auto& to = sum[r][kPosition - kFirst];
          to = Arithmetic::Add(to, a[r], weight);
        }
      });
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t i = 0; i < kCount; ++i) sums[r][kFirst + i] = sum[r][i];
  }
  if constexpr (kFirst + kCount < kPositions) {
    SumRun<Arithmetic, kRows, kFirst + kCount>(words, rows, depth, sums);
  }
}

// Lanes of even and of odd index, summed, position after position.
template <class D, class V>
HWY_INLINE void FoldLanes(D d, const V* sums, V* columns) {
  const auto pair = [=](size_t position) VK_INLINE_LAMBDA {
    const hn::Repartition<uint64_t, D> d64;
    const auto a = hn::BitCast(d64, sums[position]), b = hn::BitCast(d64, sums[position + 1]);
    return V(hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, a, b)),
                     hn::BitCast(d, hn::InterleaveUpper(d64, a, b))));
  };
  const auto halves = [=](V a, V b) VK_INLINE_LAMBDA {
    return V(hn::Add(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a)));
  };
  if constexpr (kFloatLanes == 4) {
    for (size_t i = 0; i < 4; ++i) columns[i] = pair(2 * i);
  } else if constexpr (kFloatLanes == 8) {
    for (size_t i = 0; i < 2; ++i) columns[i] = halves(pair(4 * i), pair(4 * i + 2));
  } else {
    const V even = halves(pair(0), pair(4)), odd = halves(pair(2), pair(6));
    columns[0] = hn::OddEvenBlocks(hn::Add(odd, hn::SwapAdjacentBlocks(odd)),
                                   hn::Add(even, hn::SwapAdjacentBlocks(even)));
  }
}

// Adds a run's sums to what the block's columns have, two columns of a position after the other.
template <class Arithmetic, class T>
HWY_INLINE void AddRun(const BlockGroup<T>& group, const RowRun& run, RunSums<Arithmetic>& sums,
                       float* totals) {
  Arithmetic::Settle(sums);
  typename Arithmetic::Sum columns[kColumnVectors];
  FoldLanes(typename Arithmetic::DSum(), sums, columns);
  for (size_t i = 0; i < kColumnVectors; ++i) {
    VF product = Arithmetic::ToFloat(columns[i]);
    if (Arithmetic::kFactored) {
      product = hn::Mul(product, hn::Load(DF(), kFactors<Arithmetic> + i * kFloatLanes));
    }
    const VF shifted = hn::NegMulAdd(group.Zero(i), hn::Set(DF(), run.sum), product);
    VF scale = group.Scale(i);
    if (Arithmetic::kScaled) scale = hn::Mul(scale, hn::Set(DF(), run.scale));
    float* to = totals + i * kFloatLanes;
    hn::Store(hn::MulAdd(shifted, scale, hn::Load(DF(), to)), DF(), to);
  }
}

HWY_INLINE void StoreTotals(const float* totals, float* to) {
  for (size_t position = 0; position < kPositions; ++position) {
    to[position] = totals[2 * position];
    to[kPositions + position] = totals[2 * position + 1];
  }
}

template <class Arithmetic, class T, size_t kRows>
void MultiplyGroups(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                    float* sums) {
  const RowRun* runs = reinterpret_cast<const RowRun*>(rows + SumsAt<Arithmetic>(depth));
  for (size_t block = 0; block < panel.blocks; ++block, sums += kWna16Columns) {
    alignas(64) float totals[kRows][kWna16Columns] = {};
    const uint32_t* words = panel.weights + block * panel.block_stride;
    GroupRows part{rows, runs, row_stride};
    ForRuns<Arithmetic>(depth, panel.group_size,
                        [&](size_t index, size_t k, size_t count) VK_INLINE_LAMBDA {
                          const BlockGroup<T> group(panel, block, index);
                          RunSums<Arithmetic> run_sums[kRows];
                          SumRun<Arithmetic, kRows, 0>(words + 2 * k, part, count, run_sums);
                          for (size_t r = 0; r < kRows; ++r) {
                            AddRun<Arithmetic>(group, part.run(r), run_sums[r], totals[r]);
                          }
                          part.values += count * Arithmetic::kPackedBytes;
                          ++part.runs;
                        });
    for (size_t r = 0; r < kRows; ++r) StoreTotals(totals[r], sums + r * kPanel);
  }
}

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_WNA16_WNA16_GROUPS_H_
