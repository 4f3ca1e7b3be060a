// Rows in steps of two vectors, for `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_TWO_VECTORS_H_
#define VLLM_KERNELS_CPU_TWO_VECTORS_H_

#include "cpu/vec.h"

namespace vk::VK_TIER {

// Two vectors of consecutive elements, in the order that costs least: of bfloat16 that no
// instruction converts the even ones, then the odd ones, which need no unpacking.
struct TwoVectors {
  VF first, second;
};
struct Two {};  // in place of a count

template <class T>
HWY_INLINE TwoVectors LoadUpTo(const T* from, Two) {
  return {LoadF32(from), LoadF32(from + kFloatLanes)};
}
template <class T>
HWY_INLINE void StoreUpTo(const TwoVectors& values, T* to, Two) {
  StoreF32(values.first, to);
  StoreF32(values.second, to + kFloatLanes);
}
#if !defined(__AVX512BF16__)
HWY_INLINE TwoVectors LoadUpTo(const hwy::bfloat16_t* from, Two) {
  const hn::RebindToUnsigned<DF> du;
  const hn::Repartition<uint16_t, DF> d16;
  const VU32 pairs = hn::BitCast(du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from)));
  return {hn::BitCast(DF(), hn::ShiftLeft<16>(pairs)),
          hn::BitCast(DF(), hn::And(pairs, hn::Set(du, 0xFFFF0000u)))};
}
HWY_INLINE void StoreUpTo(const TwoVectors& values, hwy::bfloat16_t* to, Two) {
  const hn::Repartition<uint16_t, DF> d16;
  const auto even = hn::BitCast(d16, hn::ShiftRight<16>(RoundUpperHalf(values.first)));
  const auto odd = hn::BitCast(d16, RoundUpperHalf(values.second));
  hn::StoreU(hn::OddEven(odd, even), d16, reinterpret_cast<uint16_t*>(to));
}
#endif

// function(values...), of one vector or of two.
template <class Function, class... More>
HWY_INLINE VF Map(const Function& function, VF value, const More&... more) {
  return function(value, more...);
}
template <class Function, class... More>
HWY_INLINE TwoVectors Map(const Function& function, const TwoVectors& values, const More&... more) {
  return {function(values.first, more.first...), function(values.second, more.second...)};
}

// Calls body(first, Two()) for each two vectors of [0, size), then body(first, count) for each
// vector of what is left.
template <class Body>
HWY_INLINE void ForTwoVectors(size_t size, const Body& body) {
  size_t i = 0;
  for (; i + 2 * kFloatLanes <= size; i += 2 * kFloatLanes) body(i, Two());
  for (; i < size; i += kFloatLanes) body(i, HWY_MIN(kFloatLanes, size - i));
}

// `value`, which is no NaN, rounded to T and back.
template <class T>
HWY_INLINE VF RoundNumberTo(VF value) {
#if !defined(__AVX512BF16__)
  if constexpr (hwy::IsSame<T, hwy::bfloat16_t>()) {
    const hn::RebindToUnsigned<DF> du;
    const VU32 rounded = RoundUpperHalf(VU32(hn::BitCast(du, value)));
    return hn::BitCast(DF(), hn::And(rounded, hn::Set(du, 0xFFFF0000u)));
  }
#endif
  return RoundTo<T>(value);
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_TWO_VECTORS_H_
