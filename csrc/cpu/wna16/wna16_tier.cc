#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/gemm/gemm_table.h"
#include "cpu/vec.h"
#include "cpu/wna16/wna16.h"

namespace vk::VK_TIER {
namespace {

using DU = hn::RebindToUnsigned<DF>;

constexpr size_t kLanes = kFloatLanes;
constexpr size_t kBlockVectors = kWna16Columns / kLanes;
constexpr size_t kFewRows = 8;
// Rows that are summed at once: as many as fit into the registers with the vectors of a strip.
constexpr size_t kStripRows = 4;
// The bits of 2^23: or-ed with a small integer they are that integer plus 2^23.
constexpr uint32_t kMagic = 0x4B000000u;

// Values of a block's columns from `first` on (a multiple of kLanes), in two words of eight.
HWY_INLINE VU32 Nibbles(const uint32_t* words, size_t first) {
  const DU du;
  const VU32 lane = hn::Iota(du, 0);
  const VU32 in_word = hn::And(hn::Add(lane, hn::Set(du, first)), hn::Set(du, 7));
  VU32 word = hn::Set(du, words[first / 8]);
  if constexpr (kLanes == 16) {
    word = hn::IfThenElse(hn::Lt(lane, hn::Set(du, 8)), word, hn::Set(du, words[1]));
  }
  return hn::And(hn::Shr(word, hn::ShiftLeft<2>(in_word)), hn::Set(du, 15));
}

HWY_INLINE VF PlusMagic(VU32 small) {
  const DU du;
  return hn::BitCast(DF(), hn::Or(small, hn::Set(du, kMagic)));
}

// Scale and zero point (plus 2^23) of one vector of columns in one group.
struct Group {
  VF scale, zero;
};

// Vector `v` of a panel holds columns `first` ... of block `block`.
struct Place {
  explicit Place(size_t v) : block(v / kBlockVectors), first(v % kBlockVectors * kLanes) {}
  size_t column() const { return block * kWna16Columns + first; }
  size_t block, first;
};

template <class T>
HWY_INLINE Group LoadGroup(const Wna16Panel& panel, Place place, size_t group) {
  const T* scales = static_cast<const T*>(panel.scales) + group * panel.scales_stride;
  VF zero = hn::Set(DF(), 8388608.0f + 8.0f);
  if (panel.zeros != nullptr) {
    const uint32_t* words = panel.zeros + group * panel.zeros_stride + place.block * 2;
    zero = PlusMagic(Nibbles(words, place.first));
  }
  return {LoadF32(scales + place.column()), zero};
}

HWY_INLINE VF Dequantise(const Wna16Panel& panel, Place place, size_t k, const Group& group) {
  const uint32_t* words = panel.weights + place.block * panel.block_stride + 2 * k;
  return hn::Mul(hn::Sub(PlusMagic(Nibbles(words, place.first)), group.zero), group.scale);
}

HWY_INLINE size_t GroupOf(const Wna16Panel& panel, size_t k) {
  return panel.groups != nullptr ? panel.groups[k] : k / panel.group_size;
}

// Calls body(begin, end, group) for each run of K, up to `depth`, that shares a group.
template <class Body>
HWY_INLINE void ForGroups(const Wna16Panel& panel, size_t k, size_t depth, const Body& body) {
  while (k < depth) {
    const size_t group = GroupOf(panel, k);
    size_t end = k + 1;
    if (panel.groups == nullptr) {
      end = HWY_MIN(depth, (group + 1) * panel.group_size);
    } else {
      while (end < depth && GroupOf(panel, end) == group) ++end;
    }
    body(k, end, group);
    k = end;
  }
}

HWY_INLINE VF Broadcast(const float* value) { return hn::Set(DF(), *value); }
HWY_INLINE VF Broadcast(const hwy::bfloat16_t* value) {
  uint16_t bits;
  std::memcpy(&bits, value, sizeof(bits));
  return hn::BitCast(DF(), hn::Set(DU(), static_cast<uint32_t>(bits) << 16));
}

// kRows rows of A times vectors [v, v + kVectors) of a panel.
template <class T, class A, size_t kRows, size_t kVectors>
void MultiplyStrip(const Wna16Panel& panel, size_t v, const char* rows, size_t row_stride,
                   size_t depth, float* sums) {
  VF sum[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t i = 0; i < kVectors; ++i) sum[r][i] = hn::Zero(DF());
  }
  ForGroups(panel, 0, depth, [&](size_t k, size_t end, size_t index) HWY_ATTR {
    Group group[kVectors];
    for (size_t i = 0; i < kVectors; ++i) group[i] = LoadGroup<T>(panel, Place(v + i), index);
    for (; k < end; ++k) {
      VF a[kRows];
      for (size_t r = 0; r < kRows; ++r) {
        a[r] = Broadcast(reinterpret_cast<const A*>(rows + r * row_stride) + k);
      }
      for (size_t i = 0; i < kVectors; ++i) {
        const VF weight = Dequantise(panel, Place(v + i), k, group[i]);
        for (size_t r = 0; r < kRows; ++r) sum[r][i] = hn::MulAdd(a[r], weight, sum[r][i]);
      }
    }
  });
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t i = 0; i < kVectors; ++i) {
      hn::StoreU(sum[r][i], DF(), sums + r * kPanel + (v + i) * kLanes);
    }
  }
}

template <class T, class A, size_t kRows>
void MultiplyRows(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                  float* sums) {
  // A block of columns, or all blocks of a panel where one vector holds a block.
  constexpr size_t kVectors = kLanes == 16 ? kPanel / kLanes : kBlockVectors;
  const size_t vectors = panel.blocks * kBlockVectors;
  size_t v = 0;
  for (; v + kVectors <= vectors; v += kVectors) {
    MultiplyStrip<T, A, kRows, kVectors>(panel, v, rows, row_stride, depth, sums);
  }
  for (; v < vectors; ++v) {
    MultiplyStrip<T, A, kRows, 1>(panel, v, rows, row_stride, depth, sums);
  }
}

#if defined(__AVX512BF16__)
// Pairs of K, of one block's 16 columns, as bfloat16: exact, since they are integers from -8 to 7.
class Pairs {
  using D8 = hn::Repartition<uint8_t, DF>;
  using D16 = hn::Repartition<uint16_t, DF>;

 public:
  Pairs() {
    alignas(64) uint8_t bytes[64];
    alignas(64) uint32_t shifts[16];
    alignas(64) uint16_t table[32];
    for (int column = 0; column < 16; ++column) {
      const uint8_t from[4] = {uint8_t(column / 2), 0x80, uint8_t(8 + column / 2), 0x80};
      std::memcpy(bytes + 4 * column, from, 4);
      shifts[column] = column % 2 * 4;
    }
    for (int i = 0; i < 32; ++i) {
      const float value = static_cast<float>(i % 16 - 8);
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      table[i] = static_cast<uint16_t>(bits >> 16);
    }
    spread_ = hn::Load(D8(), bytes);
    shift_ = hn::Load(DU(), shifts);
    table_ = hn::Load(D16(), table);
  }
  // A lookup uses the low five bits of an index. The table repeats, so that the fifth bit, which
  // belongs to the neighbour, does not matter.
  HWY_INLINE __m512bh Load(const uint32_t* words) const {
    const D8 d8;
    const auto both = hn::LoadDup128(d8, reinterpret_cast<const uint8_t*>(words));
    const auto bytes = hn::BitCast(DU(), hn::TableLookupBytes(both, spread_));
    const auto index = hn::Shr(bytes, shift_);
    return (__m512bh)_mm512_permutexvar_epi16(index.raw, table_.raw);
  }

 private:
  hn::Vec<D8> spread_;
  hn::Vec<DU> shift_;
  hn::Vec<D16> table_;
};

// Sums of a * (q - 8) by group. The scale and the zero point's difference from 8 are applied once
// for each group.
template <size_t kRows, size_t kBlocks, bool kZeros>
void MultiplyPairs(const Wna16Panel& panel, size_t block, const char* rows, size_t row_stride,
                   size_t depth, float* sums) {
  const Pairs pairs;
  const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3F803F80);
  const VF eight = hn::Set(DF(), 8388608.0f + 8.0f);
  for (size_t r = 0; r < kRows; ++r) {
    std::memset(sums + r * kPanel + block * kLanes, 0, kBlocks * kLanes * sizeof(float));
  }
  ForGroups(panel, 0, depth, [&](size_t k, size_t end, size_t index) HWY_ATTR {
    __m512 sum[kRows][kBlocks], total[kRows];
    for (size_t r = 0; r < kRows; ++r) {
      total[r] = _mm512_setzero_ps();
      for (size_t i = 0; i < kBlocks; ++i) sum[r][i] = _mm512_setzero_ps();
    }
    const uint32_t* weights = panel.weights + block * panel.block_stride;
    for (; k < end; k += 2) {
      __m512bh a[kRows];
      for (size_t r = 0; r < kRows; ++r) {
        int32_t pair;
        std::memcpy(&pair, rows + r * row_stride + 2 * k, 4);
        a[r] = (__m512bh)_mm512_set1_epi32(pair);
        if constexpr (kZeros) total[r] = _mm512_dpbf16_ps(total[r], a[r], ones);
      }
      for (size_t i = 0; i < kBlocks; ++i) {
        const __m512bh weight = pairs.Load(weights + i * panel.block_stride + 2 * k);
        for (size_t r = 0; r < kRows; ++r) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], a[r], weight);
      }
    }
    for (size_t i = 0; i < kBlocks; ++i) {
      const Group group = LoadGroup<hwy::bfloat16_t>(panel, Place(block + i), index);
      for (size_t r = 0; r < kRows; ++r) {
        VF value{sum[r][i]};
        if constexpr (kZeros) {
          value = hn::NegMulAdd(hn::Sub(group.zero, eight), VF{total[r]}, value);
        }
        float* to = sums + r * kPanel + (block + i) * kLanes;
        hn::StoreU(hn::MulAdd(value, group.scale, hn::LoadU(DF(), to)), DF(), to);
      }
    }
  });
}

template <size_t kRows, bool kZeros>
void MultiplyPairRows(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                      float* sums) {
  constexpr size_t kAll = kPanel / kWna16Columns;
  if (panel.blocks == kAll) {
    return MultiplyPairs<kRows, kAll, kZeros>(panel, 0, rows, row_stride, depth, sums);
  }
  for (size_t block = 0; block < panel.blocks; ++block) {
    MultiplyPairs<kRows, 1, kZeros>(panel, block, rows, row_stride, depth, sums);
  }
}

struct FewBf16 {
  using Scale = hwy::bfloat16_t;
  using A = hwy::bfloat16_t;
  template <size_t kRows>
  static void Multiply(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                       float* sums) {
    // A pair must not straddle groups.
    const bool whole = depth % 2 == 0 && panel.group_size % 2 == 0 && panel.groups == nullptr;
    if (!whole) return MultiplyRows<Scale, A, kRows>(panel, rows, row_stride, depth, sums);
    panel.zeros != nullptr ? MultiplyPairRows<kRows, true>(panel, rows, row_stride, depth, sums)
                           : MultiplyPairRows<kRows, false>(panel, rows, row_stride, depth, sums);
  }
  static void Pack(void* to, const void* from, size_t depth) {
    if (depth > 0) std::memcpy(to, from, depth * sizeof(A));  // else `from` may be null
  }
};
#endif

template <class T>
struct Few {
  using Scale = T;
  using A = float;
  template <size_t kRows>
  static void Multiply(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                       float* sums) {
    MultiplyRows<T, float, kRows>(panel, rows, row_stride, depth, sums);
  }
  static void Pack(void* to, const void* from, size_t depth) {
    float* wide = static_cast<float*>(to);
    const T* in = static_cast<const T*>(from);
    ForVectors(depth, [=](size_t i, size_t n)
                          VK_INLINE_LAMBDA { StoreUpTo(LoadUpTo(in + i, n), wide + i, n); });
  }
};
#if !defined(__AVX512BF16__)
using FewBf16 = Few<hwy::bfloat16_t>;
#endif

template <class Kind>
void Multiply(const Wna16Panel& panel, const void* rows, size_t row_stride, size_t row_count,
              size_t depth, float* sums) {
  using Rows = void(const Wna16Panel&, const char*, size_t, size_t, float*);
  static constexpr Rows* kRows[kStripRows] = {
      Kind::template Multiply<1>, Kind::template Multiply<2>, Kind::template Multiply<3>,
      Kind::template Multiply<4>};
  const char* row = static_cast<const char*>(rows);
  while (row_count > 0) {
    const size_t count = HWY_MIN(row_count, kStripRows);
    kRows[count - 1](panel, row, row_stride, depth, sums);
    row += count * row_stride;
    sums += count * kPanel;
    row_count -= count;
  }
}

// One vector of columns, values [k, end) of K: one value after the other, or pairs of bfloat16.
template <class T>
HWY_INLINE void ExpandVector(const Wna16Panel& panel, size_t v, size_t k, size_t end, T* to) {
  const Place place(v);
  const DU du;
  ForGroups(panel, k, end, [&](size_t begin, size_t stop, size_t index) HWY_ATTR {
    const Group group = LoadGroup<T>(panel, place, index);
    for (size_t at = begin; at < stop; ++at) {
      const VF value = Dequantise(panel, place, at, group);
      if constexpr (sizeof(T) == 2 && hwy::IsSame<T, hwy::bfloat16_t>()) {
        uint32_t* pair = reinterpret_cast<uint32_t*>(to) + (at - k) / 2 * kPanel + place.column();
        const VU32 upper = RoundUpperHalf(value);
        // Memory starts as zeros.
        const VU32 half = (at - k) % 2 == 0 ? VU32(hn::ShiftRight<16>(upper))
                                            : VU32(hn::And(upper, hn::Set(du, 0xFFFF0000u)));
        hn::StoreU(hn::Or(half, hn::LoadU(du, pair)), du, pair);
      } else {
        StoreF32(value, to + (at - k) * kPanel + place.column());
      }
    }
  });
}

template <class T>
void Expand(const Wna16Panel& panel, size_t k, size_t count, size_t depth, void* to) {
  std::memset(to, 0, count * kPanel * sizeof(T));
  const size_t end = HWY_MIN(k + count, depth);
  for (size_t v = 0; v < panel.blocks * kBlockVectors; ++v) {
    ExpandVector(panel, v, k, end, static_cast<T*>(to));
  }
}

}  // namespace

extern const Wna16Table wna16_table;
const Wna16Table wna16_table = {
    kFewRows,
    {sizeof(float), sizeof(FewBf16::A), sizeof(float)},
    {Few<float>::Pack, FewBf16::Pack, Few<hwy::float16_t>::Pack},
    {Multiply<Few<float>>, Multiply<FewBf16>, Multiply<Few<hwy::float16_t>>},
    {Expand<float>, Expand<hwy::bfloat16_t>, Expand<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
