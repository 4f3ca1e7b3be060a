// Floats of 8 bits (Micikevicius et al., "FP8 Formats for Deep Learning", 2022) and float32, for
// `*_tier.cc` files only. E4M3 is the variant without infinities ("fn").
#ifndef VLLM_KERNELS_CPU_FLOAT8_H_
#define VLLM_KERNELS_CPU_FLOAT8_H_

#include "cpu/vec.h"

namespace vk::VK_TIER {

using DByte = hn::Rebind<uint8_t, DF>;

// Half(d, code): the bits of the float16 that is the value / WidenedBy (cache_coding.h), of
// sign-extended codes.
struct E4m3 {
  static constexpr int kMantissa = 3, kBias = 7;
  static constexpr float kMax = 448.0f;

  // A float16 has one more bit of exponent and a bias of 8 more; only the code of NaN differs, from
  // which alone the addition carries.
  template <class D>
  static HWY_INLINE hn::Vec<D> Half(D d, hn::Vec<D> code) {
    const auto bits = hn::And(hn::ShiftLeft<7>(code), hn::Set(d, static_cast<int16_t>(0xBFFF)));
    const auto carry = hn::Add(bits, hn::Set(d, int16_t{0x0080}));
    return hn::Or(bits, hn::And(carry, hn::Set(d, int16_t{0x4000})));
  }
};

struct E5m2 {
  static constexpr int kMantissa = 2, kBias = 15;
  static constexpr float kMax = 57344.0f;

  // The upper half of a float16.
  template <class D>
  static HWY_INLINE hn::Vec<D> Half(D, hn::Vec<D> code) {
    return hn::ShiftLeft<8>(code);
  }
};

// The first `count` values / WidenedBy, one vector at most; what is behind them is not read.
template <class Format>
HWY_INLINE VF LoadFloat8(const uint8_t* from, size_t count) {
  const hn::Rebind<int8_t, DF> d8;
  const hn::Rebind<int16_t, DF> d16;
  const int8_t* codes = reinterpret_cast<const int8_t*>(from);
  const auto code =
      HWY_LIKELY(count == hn::Lanes(DF())) ? hn::LoadU(d8, codes) : hn::LoadN(d8, codes, count);
  const hn::Rebind<hwy::float16_t, DF> half;
  return hn::PromoteTo(DF(), hn::BitCast(half, Format::Half(d16, hn::PromoteTo(d16, code))));
}

// Writes the codes of the first `count` values: to nearest, ties to even; what is too large becomes
// the largest finite value, a NaN stays one.
template <class Format>
HWY_INLINE void StoreFloat8(VF value, uint8_t* to, size_t count) {
  const DF d;
  const hn::RebindToUnsigned<DF> du;
  constexpr int kDropped = 23 - Format::kMantissa;
  const auto word = [du](uint32_t bits) HWY_ATTR { return hn::Set(du, bits); };
  const VU32 sign = hn::And(hn::BitCast(du, value), word(0x80000000u));
  const VF magnitude = hn::Min(hn::Abs(value), hn::Set(d, Format::kMax));
  const VU32 bits = hn::BitCast(du, magnitude);
  const VU32 odd = hn::And(hn::ShiftRight<kDropped>(bits), word(1));
  const VU32 rounded = hn::Add(bits, hn::Add(odd, word((1u << (kDropped - 1)) - 1)));
  const VU32 normal =
      hn::ShiftRight<kDropped>(hn::Sub(rounded, word((127u - Format::kBias) << 23)));
  // Below the normal numbers the adder rounds: beside this one a step of the codes is the last bit.
  const uint32_t step = (127u + 1 - Format::kBias + kDropped) << 23;
  const VF shifted = hn::Add(magnitude, hn::BitCast(d, word(step)));
  const VU32 subnormal = hn::Sub(hn::BitCast(du, shifted), word(step));
  const auto small = hn::Lt(bits, word((128u - Format::kBias) << 23));
  VU32 code = hn::IfThenElse(small, subnormal, normal);
  code = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), word(0x7F), code);
  code = hn::Or(code, hn::ShiftRight<24>(sign));
  hn::StoreN(hn::TruncateTo(DByte(), code), DByte(), to, count);
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_FLOAT8_H_
