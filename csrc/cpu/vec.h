// Vector loads and stores that convert to and from float32, for `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_VEC_H_
#define VLLM_KERNELS_CPU_VEC_H_

#include "cpu/tier.h"

namespace vk {
namespace VK_TIER_NAMESPACE {

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;

// Full vector of hn::Lanes(DF()) values.
HWY_INLINE VF LoadF32(const float* HWY_RESTRICT from) { return hn::LoadU(DF(), from); }
template <class T>  // hwy::bfloat16_t or hwy::float16_t
HWY_INLINE VF LoadF32(const T* HWY_RESTRICT from) {
  const hn::Rebind<T, DF> half;
  return hn::PromoteTo(DF(), hn::LoadU(half, from));
}

// The first `count` values; the rest of the vector is zero. Reads no byte past them.
HWY_INLINE VF LoadF32N(const float* HWY_RESTRICT from, size_t count) {
  return hn::LoadN(DF(), from, count);
}
template <class T>
HWY_INLINE VF LoadF32N(const T* HWY_RESTRICT from, size_t count) {
  const hn::Rebind<T, DF> half;
  return hn::PromoteTo(DF(), hn::LoadN(half, from, count));
}

HWY_INLINE void StoreF32(VF value, float* HWY_RESTRICT to) { hn::StoreU(value, DF(), to); }
template <class T>
HWY_INLINE void StoreF32(VF value, T* HWY_RESTRICT to) {
  const hn::Rebind<T, DF> half;
  hn::StoreU(hn::DemoteTo(half, value), half, to);
}

HWY_INLINE void StoreF32N(VF value, float* HWY_RESTRICT to, size_t count) {
  hn::StoreN(value, DF(), to, count);
}
template <class T>
HWY_INLINE void StoreF32N(VF value, T* HWY_RESTRICT to, size_t count) {
  const hn::Rebind<T, DF> half;
  hn::StoreN(hn::DemoteTo(half, value), half, to, count);
}

// A full vector where `count` allows, else the first `count` values: the loop body of a row.
template <class T>
HWY_INLINE VF LoadUpTo(const T* from, size_t count) {
  return HWY_LIKELY(count == hn::Lanes(DF())) ? LoadF32(from) : LoadF32N(from, count);
}

template <class T>
HWY_INLINE void StoreUpTo(VF value, T* to, size_t count) {
  if (HWY_LIKELY(count == hn::Lanes(DF()))) {
    StoreF32(value, to);
  } else {
    StoreF32N(value, to, count);
  }
}

// `value` rounded to T and back: what a store followed by a load would give.
template <class T>
HWY_INLINE VF RoundTo(VF value) {
  const hn::Rebind<T, DF> half;
  return hn::PromoteTo(DF(), hn::DemoteTo(half, value));
}
template <>
HWY_INLINE VF RoundTo<float>(VF value) {
  return value;
}
// The upper half of a float32 is a bfloat16, so nothing needs to be packed. The addition rounds to
// nearest, ties to even, subnormals like the rest; it would carry a NaN into the sign.
template <>
HWY_INLINE VF RoundTo<hwy::bfloat16_t>(VF value) {
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  const VF upper = hn::BitCast(DF(), hn::And(rounded, hn::Set(du, 0xFFFF0000u)));
  return hn::IfThenElse(hn::IsNaN(value), value, upper);
}

// Calls body(first, count) for each vector of [0, size): `count` is the full lane count, as a
// constant, until the last one.
template <class Body>
HWY_INLINE void ForVectors(size_t size, const Body& body) {
  const size_t lanes = hn::Lanes(DF());
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) body(i, lanes);
  if (i < size) body(i, size - i);
}
// Put after a lambda's parameters: without it the compiler may leave a body that is called twice
// out of line, and the constant is lost.
#define VK_INLINE_LAMBDA HWY_ATTR __attribute__((always_inline))

}  // namespace VK_TIER_NAMESPACE
}  // namespace vk
#endif  // VLLM_KERNELS_CPU_VEC_H_
