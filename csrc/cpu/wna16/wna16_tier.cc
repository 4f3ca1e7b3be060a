#include <cstring>

#include "cpu/gemm/gemm_table.h"
#include "cpu/vec.h"
#include "cpu/wna16/wna16.h"
#include "cpu/wna16/wna16_groups.h"

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

// kRows rows of A times vectors [v, v + kVectors) of a panel.
template <class T, size_t kRows, size_t kVectors>
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
        a[r] = hn::Set(DF(), reinterpret_cast<const float*>(rows + r * row_stride)[k]);
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

template <class T, size_t kRows>
void MultiplyRows(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                  float* sums) {
  // A block of columns, or all blocks of a panel where one vector holds a block.
  constexpr size_t kVectors = kLanes == 16 ? kPanel / kLanes : kBlockVectors;
  const size_t vectors = panel.blocks * kBlockVectors;
  size_t v = 0;
  for (; v + kVectors <= vectors; v += kVectors) {
    MultiplyStrip<T, kRows, kVectors>(panel, v, rows, row_stride, depth, sums);
  }
  for (; v < vectors; ++v) {
    MultiplyStrip<T, kRows, 1>(panel, v, rows, row_stride, depth, sums);
  }
}

// Few rows, value by value of K: any groups.
template <class T>
struct ByValue {
  static constexpr size_t kGroupMultiple = 0;
  static size_t RowBytes(size_t depth, size_t) { return depth * sizeof(float); }
  static void Pack(void* to, const void* from, size_t depth, size_t) {
    WidenRow<T>(static_cast<float*>(to), from, depth);
  }
  template <size_t kRows>
  static void Multiply(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                       float* sums) {
    MultiplyRows<T, kRows>(panel, rows, row_stride, depth, sums);
  }
};

template <class T>
struct ByGroup {
#if defined(__AVX512BF16__)
  using Half = hwy::If<hwy::IsSame<T, hwy::bfloat16_t>(), GroupsBf16, GroupsI16>;
#elif HWY_ARCH_X86
  using Half = GroupsI16;
#else
  using Half = GroupsF32;
#endif
  using Arithmetic = hwy::If<sizeof(T) == 2, Half, GroupsF32>;
  static constexpr size_t kGroupMultiple = kTurn<Arithmetic>;
  static size_t RowBytes(size_t depth, size_t group_size) {
    return PackedRowBytes<Arithmetic>(depth, group_size);
  }
  static void Pack(void* to, const void* from, size_t depth, size_t group_size) {
    PackGroups<Arithmetic, T>(to, from, depth, group_size);
  }
  template <size_t kRows>
  static void Multiply(const Wna16Panel& panel, const char* rows, size_t row_stride, size_t depth,
                       float* sums) {
    MultiplyGroups<Arithmetic, T, kRows>(panel, rows, row_stride, depth, sums);
  }
};

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

template <class Kind>
constexpr Wna16Few kFew = {Kind::kGroupMultiple, Kind::RowBytes, Kind::Pack, Multiply<Kind>};

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
    {kFew<ByGroup<float>>, kFew<ByGroup<hwy::bfloat16_t>>, kFew<ByGroup<hwy::float16_t>>},
    {kFew<ByValue<float>>, kFew<ByValue<hwy::bfloat16_t>>, kFew<ByValue<hwy::float16_t>>},
    {Expand<float>, Expand<hwy::bfloat16_t>, Expand<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
