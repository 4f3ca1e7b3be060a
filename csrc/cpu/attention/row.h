// Rows of the cache as vectors of float32, for `*_tier.cc` files. A row is read in pairs of
// vectors, 2 * kLanes elements in the order that costs least; what is left of it one vector at a
// time.
#ifndef VLLM_KERNELS_CPU_ATTENTION_ROW_H_
#define VLLM_KERNELS_CPU_ATTENTION_ROW_H_

#include "cpu/attention/micro.h"
#include "cpu/float8.h"
#include "cpu/scratch.h"

namespace vk::VK_TIER {

// Prefetches a row into the L2 cache; the L1 cache is left to the rows being read.
HWY_INLINE void PrefetchRow(const void* row, size_t size) {
  const char* bytes = static_cast<const char*>(row);
  for (size_t i = 0; i < size; i += kCacheLine) __builtin_prefetch(bytes + i, 0, 2);
}

template <class T>
struct PlainRow {
  using Element = T;
  static constexpr bool kEvenAndOdd = false;

  // The pair's first or second vector.
  static HWY_INLINE VF Half(const Element* from, int half) { return LoadF32(from + half * kLanes); }
  static HWY_INLINE VF Rest(const Element* from, size_t count) { return LoadUpTo(from, count); }
};

// A pair's even elements, then its odd ones: one instruction each, where consecutive ones have to
// be unpacked before they are shifted.
template <>
struct PlainRow<hwy::bfloat16_t> {
  using Element = hwy::bfloat16_t;
  static constexpr bool kEvenAndOdd = true;

  static HWY_INLINE VF Half(const Element* from, int half) {
    const hn::RebindToUnsigned<DF> du;
    const auto pairs = hn::BitCast(
        du, hn::LoadU(hn::Repartition<uint16_t, DF>(), reinterpret_cast<const uint16_t*>(from)));
    return hn::BitCast(
        DF(), half == 0 ? hn::ShiftLeft<16>(pairs) : hn::And(pairs, hn::Set(du, 0xFFFF0000u)));
  }
  static HWY_INLINE VF Rest(const Element* from, size_t count) { return LoadUpTo(from, count); }
};

// Codes of 8 bits; the scale and WidenedBy (cache_coding.h) are left out.
template <class Format>
struct CodedRow {
  using Element = uint8_t;
  static constexpr bool kEvenAndOdd = false;

  static HWY_INLINE VF Half(const Element* from, int half) {
    const hn::Repartition<int16_t, DF> d16;
    const auto codes =
        hn::LoadU(hn::Rebind<int8_t, decltype(d16)>(), reinterpret_cast<const int8_t*>(from));
    const auto halves = hn::BitCast(hn::Repartition<hwy::float16_t, DF>(),
                                    Format::Half(d16, hn::PromoteTo(d16, codes)));
    return half == 0 ? VF(hn::PromoteLowerTo(DF(), halves)) : VF(hn::PromoteUpperTo(DF(), halves));
  }
  static HWY_INLINE VF Rest(const Element* from, size_t count) {
    return LoadFloat8<Format>(from, count);
  }
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_ROW_H_
