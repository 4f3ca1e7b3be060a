// Products of few rows with 4-bit weights, where as many values of K as a vector of words holds
// share a group. For `*_tier.cc` files only.
//
// Words are read as they lie in memory: lane i holds the eight columns 8 (i % 2) ... of value i / 2
// of K. Each position in the words has a vector of sums of its own, one sum for each lane, so that
// a weight costs a mask, a conversion and a multiplication, or on AVX512-BF16 a look-up and half a
// product. Sums are of a * q; what zero points take away follows from the sum of a, group by group.
#ifndef VLLM_KERNELS_CPU_WNA16_WNA16_GROUPS_H_
#define VLLM_KERNELS_CPU_WNA16_WNA16_GROUPS_H_

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/gemm/gemm_table.h"
#include "cpu/round.h"
#include "cpu/vec.h"
#include "cpu/wna16/wna16.h"

namespace vk::VK_TIER {
namespace {

constexpr size_t kPositions = 8, kPositionBits = 4, kHalfPositions = kPositions / 2;
// Values of K in a vector of words.
constexpr size_t kVectorDepth = kFloatLanes / 2;

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

HWY_INLINE VF WordsToFloat(VU32 words) {
  return hn::ConvertTo(DF(), hn::BitCast(hn::RebindToSigned<DF>(), words));
}

// An arithmetic says how kStep values of K are multiplied: `Words` holds their weights, of which
// `Value<p>` is what position p gives, times Factor(p); Pack lays out `depth` values of a row so
// that `Row` has the lanes of Words.
struct GroupsF32 {
  using Row = VF;
  static constexpr size_t kStep = kVectorDepth, kPackedBytes = 2 * sizeof(float);
  // Masked values keep their place in a half of a word.
  static constexpr float Factor(size_t position) {
    return static_cast<float>(1u << position % kHalfPositions * kPositionBits);
  }

  class Words {
   public:
    HWY_INLINE explicit Words(const uint32_t* from)
        : low_(hn::LoadU(DU(), from)), high_(hn::ShiftRight<16>(low_)) {}
    template <size_t kPosition>
    HWY_INLINE VF Value() const {
      constexpr uint32_t kMask = 15u << kPosition % kHalfPositions * kPositionBits;
      return WordsToFloat(hn::And(kPosition < kHalfPositions ? low_ : high_, hn::Set(DU(), kMask)));
    }

   private:
    using DU = hn::RebindToUnsigned<DF>;
    VU32 low_, high_;
  };

  template <class T>
  static void Pack(char* to, const T* in, size_t depth) {
    float* out = reinterpret_cast<float*>(to);
    ForVectors(depth, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
      const VF values = LoadUpTo(in + i, n);
      if (HWY_LIKELY(n == kFloatLanes)) {
        hn::StoreInterleaved2(values, values, DF(), out + 2 * i);
        return;
      }
      alignas(64) float near[2 * kFloatLanes];
      hn::StoreInterleaved2(values, values, DF(), near);
      std::memcpy(out + 2 * i, near, 2 * n * sizeof(float));
    });
  }
  static HWY_INLINE Row Load(const char* from) {
    return hn::LoadU(DF(), reinterpret_cast<const float*>(from));
  }
  static HWY_INLINE VF Add(VF sum, Row a, VF weight) { return hn::MulAdd(a, weight, sum); }
  static HWY_INLINE VF AddRow(VF sum, Row a) { return hn::Add(sum, a); }
};

#if defined(__AVX512BF16__)
// Two vectors of words, whose values of K make pairs of bfloat16. Integers from 0 to 15 are exact.
struct GroupsBf16 {
  using Row = __m512bh;
  static constexpr size_t kStep = 2 * kVectorDepth, kPackedBytes = 2 * sizeof(hwy::bfloat16_t);
  static constexpr float Factor(size_t) { return 1.0f; }

  class Words {
   public:
    HWY_INLINE explicit Words(const uint32_t* from) {
      const __m512i first = _mm512_loadu_si512(from);
      const __m512i second = _mm512_loadu_si512(from + kFloatLanes);
      constexpr __mmask32 kUpper = 0xAAAAAAAAu;
      low_ = _mm512_mask_blend_epi16(kUpper, first, _mm512_slli_epi32(second, 16));
      high_ = _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(first, 16), second);
    }
    // A look-up uses the low five bits of an index. The table repeats, so that the fifth bit, which
    // belongs to the neighbour, does not matter.
    template <size_t kPosition>
    HWY_INLINE __m512bh Value() const {
      constexpr size_t kShift = kPosition % kHalfPositions * kPositionBits;
      const __m512i half = kPosition < kHalfPositions ? low_ : high_;
      return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(half, kShift), Integers());
    }

   private:
    static HWY_INLINE __m512i Integers() {
      // 0 to 15.
      const __m256i once =
          _mm256_setr_epi16(0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100,
                            0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170);
      return _mm512_broadcast_i64x4(once);
    }
    __m512i low_, high_;
  };

  // In each step the pairs of values k and k + kVectorDepth, each pair twice.
  template <class T>
  static void Pack(char* to, const T* from, size_t depth) {
    const uint16_t* in = reinterpret_cast<const uint16_t*>(from);
    uint16_t* out = reinterpret_cast<uint16_t*>(to);
    for (size_t k = 0; k < depth; k += kStep) {
      for (size_t i = 0; i < kVectorDepth; ++i, out += 4) {
        out[0] = out[2] = in[k + i];
        out[1] = out[3] = in[k + kVectorDepth + i];
      }
    }
  }
  static HWY_INLINE Row Load(const char* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static HWY_INLINE VF Add(VF sum, Row a, __m512bh weight) {
    return VF{_mm512_dpbf16_ps(sum.raw, a, weight)};
  }
  static HWY_INLINE VF AddRow(VF sum, Row a) {
    return VF{_mm512_dpbf16_ps(sum.raw, a, (__m512bh)_mm512_set1_epi32(0x3F803F80))};
  }
};
#endif

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

// A packed row is what Arithmetic::Pack makes of it, then its sums over each group, lane by lane.
template <class Arithmetic>
HWY_INLINE size_t SumsAt(size_t depth) {
  return RoundUp(depth * Arithmetic::kPackedBytes, size_t{64});
}

template <class Arithmetic>
size_t PackedRowBytes(size_t depth, size_t group_size) {
  return SumsAt<Arithmetic>(depth) + depth / group_size * kFloatLanes * sizeof(float);
}

template <class Arithmetic, class T>
void PackGroups(void* to, const void* from, size_t depth, size_t group_size) {
  char* packed = static_cast<char*>(to);
  Arithmetic::template Pack<T>(packed, static_cast<const T*>(from), depth);
  float* sums = reinterpret_cast<float*>(packed + SumsAt<Arithmetic>(depth));
  for (size_t k = 0; k < depth; sums += kFloatLanes) {
    VF sum = hn::Zero(DF());
    for (const size_t end = k + group_size; k < end; k += Arithmetic::kStep) {
      sum = Arithmetic::AddRow(sum, Arithmetic::Load(packed + k * Arithmetic::kPackedBytes));
    }
    hn::StoreU(sum, DF(), sums);
  }
}

// The bits of two words or floats in turn in all lanes, as the columns 8 (i % 2) + p lie.
HWY_INLINE VU32 BothHalves(const void* two) {
  uint64_t bits;
  std::memcpy(&bits, two, sizeof(bits));
  return hn::BitCast(hn::RebindToUnsigned<DF>(), hn::Set(hn::Repartition<uint64_t, DF>(), bits));
}

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
    if (has_zeros_) zeros_ = BothHalves(panel.zeros + group * panel.zeros_stride + 2 * block);
  }
  HWY_INLINE VF Scale(size_t position) const {
    return hn::BitCast(DF(), BothHalves(scales_ + 2 * position));
  }
  template <size_t kPosition>
  HWY_INLINE VF Zero() const {
    if (!has_zeros_) return hn::Set(DF(), 8.0f);
    const VU32 shifted = hn::ShiftRight<kPosition * kPositionBits>(zeros_);
    return WordsToFloat(hn::And(shifted, hn::Set(hn::RebindToUnsigned<DF>(), 15)));
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

  alignas(64) float scales_[2 * kPositions];  // of both columns of a position
  VU32 zeros_;
  bool has_zeros_;
};

// A block's sums by row and position, lane by lane, scaled.
using BlockTotals = float[kPositions][kFloatLanes];

// kRows packed rows, from a value of K on.
struct GroupRows {
  const char* values;
  const char* sums;
  size_t stride;  // bytes, of both
};

// Adds what a block's columns get from `depth` values of K that share a group, for the positions
// from kFirst on.
template <class Arithmetic, size_t kRows, size_t kFirst, class T>
HWY_INLINE void AddGroup(const BlockGroup<T>& group, const uint32_t* words, const GroupRows& rows,
                         size_t depth, BlockTotals* totals) {
  constexpr size_t kCount = PositionsAtOnce(kRows);
  VF sum[kRows][kCount];
  for (auto& row : sum) {
    for (VF& value : row) value = hn::Zero(DF());
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
          VF& to = sum[r][kPosition - kFirst];
          to = Arithmetic::Add(to, a[r], weight);
        }
      });
    }
  }
  ForIndices<kFirst, kFirst + kCount>([&](auto position) VK_INLINE_LAMBDA {
    constexpr size_t kPosition = decltype(position)::value;
    const VF zero = group.template Zero<kPosition>(), scale = group.Scale(kPosition);
    const VF inverse = hn::Set(DF(), 1.0f / Arithmetic::Factor(kPosition));
    for (size_t r = 0; r < kRows; ++r) {
      const char* row_sum = rows.sums + r * rows.stride;
      const VF product = hn::Mul(sum[r][kPosition - kFirst], inverse);
      const VF shifted =
          hn::NegMulAdd(zero, hn::LoadU(DF(), reinterpret_cast<const float*>(row_sum)), product);
      float* to = totals[r][kPosition];
      hn::StoreU(hn::MulAdd(shifted, scale, hn::LoadU(DF(), to)), DF(), to);
    }
  });
  if constexpr (kFirst + kCount < kPositions) {
    AddGroup<Arithmetic, kRows, kFirst + kCount>(group, words, rows, depth, totals);
  }
}

// Lanes of even and of odd index, summed: columns p and 8 + p of the block.
HWY_INLINE void StoreTotals(const BlockTotals& totals, float* to) {
  const hn::FixedTag<float, 4> d;
  for (size_t position = 0; position < kPositions; ++position) {
    auto sum = hn::LoadU(d, totals[position]);
    for (size_t i = 4; i < kFloatLanes; i += 4) {
      sum = hn::Add(sum, hn::LoadU(d, totals[position] + i));
    }
    alignas(16) float four[4];
    hn::Store(sum, d, four);
    to[position] = four[0] + four[2];
    to[kPositions + position] = four[1] + four[3];
  }
}

template <class Arithmetic, class T, size_t kRows>
void MultiplyGroups(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                    float* sums) {
  for (size_t block = 0; block < panel.blocks; ++block, sums += kWna16Columns) {
    alignas(64) BlockTotals totals[kRows] = {};
    const uint32_t* words = panel.weights + block * panel.block_stride;
    GroupRows part{rows, rows + SumsAt<Arithmetic>(depth), row_stride};
    for (size_t k = 0, index = 0; k < depth; k += panel.group_size, ++index) {
      AddGroup<Arithmetic, kRows, 0>(BlockGroup<T>(panel, block, index), words + 2 * k, part,
                                     panel.group_size, totals);
      part.values += panel.group_size * Arithmetic::kPackedBytes;
      part.sums += kFloatLanes * sizeof(float);
    }
    for (size_t r = 0; r < kRows; ++r) StoreTotals(totals[r], sums + r * kPanel);
  }
}

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_WNA16_WNA16_GROUPS_H_
