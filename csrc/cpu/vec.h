// Vector loads and stores that convert to and from float32, for `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_VEC_H_
#define VLLM_KERNELS_CPU_VEC_H_

#include "cpu/tier.h"

namespace vk::VK_TIER {

using DF = hn::ScalableTag<float>;

// A tag's vector type in a form that may be a member, an array element or a captured variable. SVE
// types have no size unless the compiler is told one; every SVE tier tells it.
#if defined(__ARM_FEATURE_SVE)
template <class V>
struct SizedOf;
#define VK_SIZED_OF(type)          \
  template <>                      \
  struct SizedOf<sv##type##_t> {   \
    using Type = hn::sized_##type; \
  };
VK_SIZED_OF(float32)
VK_SIZED_OF(int32)
VK_SIZED_OF(uint32)
VK_SIZED_OF(int16)
VK_SIZED_OF(uint16)
#undef VK_SIZED_OF
template <class D>
using Sized = typename SizedOf<hn::Vec<D>>::Type;
constexpr size_t kVectorBytes = __ARM_FEATURE_SVE_BITS / 8;
#else
template <class D>
using Sized = hn::Vec<D>;
constexpr size_t kVectorBytes = HWY_MAX_BYTES;
#endif
using VF = Sized<DF>;

// Floats in a vector. A constant in every tier, because arrays of vectors depend on it.
constexpr size_t kFloatLanes = kVectorBytes / sizeof(float);
// 32 vector registers or more; x86 has them from AVX-512 on.
constexpr bool kManyRegisters = !HWY_ARCH_X86 || HWY_TARGET <= HWY_AVX3;

using VU32 = Sized<hn::RebindToUnsigned<DF>>;
using VBF16 = hn::Vec<hn::Rebind<hwy::bfloat16_t, DF>>;

// The bits of a float that is no NaN, rounded to its upper half (a bfloat16): to nearest, ties to
// even, subnormals like the rest. The lower half is undefined.
HWY_INLINE VU32 RoundUpperHalf(VU32 bits) {
  const hn::RebindToUnsigned<DF> du;
  const VU32 odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  return hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
}

// Of `value`, a result of arithmetic, which may be a NaN.
HWY_INLINE VU32 RoundUpperHalf(VF value) {
  const hn::RebindToUnsigned<DF> du;
  const hn::RebindToSigned<DF> di;
  // Clamp NaNs to the default quiet NaN of their sign: the addition below could carry a NaN of many
  // ones into the sign bit. All other values are below these bounds.
  const auto positive = hn::Min(hn::BitCast(di, value), hn::Set(di, 0x7FC00000));
  return RoundUpperHalf(VU32(hn::Min(hn::BitCast(du, positive), hn::Set(du, 0xFFC00000u))));
}

HWY_INLINE VBF16 ToBF16Portable(VF value) {
  const hn::Rebind<uint16_t, DF> du16;
  const VU32 upper = hn::ShiftRight<16>(RoundUpperHalf(value));
  return hn::BitCast(hn::Rebind<hwy::bfloat16_t, DF>(), hn::TruncateTo(du16, upper));
}

HWY_INLINE VBF16 ToBF16(VF value) {
#if defined(__AVX512BF16__)
  // The instruction flushes subnormals to zero; PyTorch does not.
  constexpr int kSubnormal = 0x20;
  if (HWY_LIKELY(_mm512_fpclass_ps_mask(value.raw, kSubnormal) == 0)) {
    return VBF16{reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value.raw))};
  }
#endif
  return ToBF16Portable(value);
}

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

HWY_INLINE void StoreF32(VF value, hwy::bfloat16_t* HWY_RESTRICT to) {
  hn::StoreU(ToBF16(value), hn::Rebind<hwy::bfloat16_t, DF>(), to);
}

HWY_INLINE void StoreF32N(VF value, float* HWY_RESTRICT to, size_t count) {
  hn::StoreN(value, DF(), to, count);
}
template <class T>
HWY_INLINE void StoreF32N(VF value, T* HWY_RESTRICT to, size_t count) {
  const hn::Rebind<T, DF> half;
  hn::StoreN(hn::DemoteTo(half, value), half, to, count);
}

HWY_INLINE void StoreF32N(VF value, hwy::bfloat16_t* HWY_RESTRICT to, size_t count) {
  hn::StoreN(ToBF16(value), hn::Rebind<hwy::bfloat16_t, DF>(), to, count);
}

// Loads a full vector where `count` allows, otherwise the first `count` values: for loops over a
// row.
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
template <>
HWY_INLINE VF RoundTo<hwy::bfloat16_t>(VF value) {
#if defined(__AVX512BF16__)
  return hn::PromoteTo(DF(), ToBF16(value));
#else
  // Masking is enough; nothing has to be packed.
  const hn::RebindToUnsigned<DF> du;
  return hn::BitCast(DF(), hn::And(RoundUpperHalf(value), hn::Set(du, 0xFFFF0000u)));
#endif
}

// Stands after the parameters of a lambda. Without it the compiler may leave a body that ForVectors
// calls twice out of line, and the constant count is lost.
#define VK_INLINE_LAMBDA HWY_ATTR __attribute__((always_inline))

// Calls body(first, count) for each vector of [0, size): `count` is the full lane count, as a
// constant, until the last one.
template <class Body>
HWY_INLINE void ForVectors(size_t size, const Body& body) {
  const size_t lanes = hn::Lanes(DF());
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) body(i, lanes);
  if (i < size) body(i, size - i);
}

// A row in float32.
template <class T>
static void WidenRow(float* to, const void* from, size_t count) {
  const T* values = static_cast<const T*>(from);
  ForVectors(count, [=](size_t i, size_t n)
                        VK_INLINE_LAMBDA { StoreUpTo(LoadUpTo(values + i, n), to + i, n); });
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_VEC_H_
