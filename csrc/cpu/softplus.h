// e^x and log(1 + e^x) of any x, for `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_SOFTPLUS_H_
#define VLLM_KERNELS_CPU_SOFTPLUS_H_

#include "cpu/math.h"

namespace vk::VK_TIER {

HWY_INLINE VF Exp(VF x) {
  const DF d;
  const VF zero = hn::Zero(d);
  const VF e = ExpOfNegative(hn::Or(x, VF(hn::SignBit(d))));  // e^-|x|
  return hn::IfThenElse(hn::Gt(x, zero), hn::Div(hn::Set(d, 1.0f), e), e);
}

// log(1 + e^x): 3 ulp. From e^-|x|, which cannot overflow, and the series of
// log(1 + z) = 2 artanh(z / (2 + z)), whose argument is at most 1 / 3.
HWY_INLINE VF Softplus(VF x) {
  const DF d;
  const VF e = ExpOfNegative(hn::Or(x, VF(hn::SignBit(d))));
  const VF s = hn::Div(e, hn::Add(e, hn::Set(d, 2.0f)));
  const VF series = Polynomial(hn::Mul(s, s), 2.0f, 2.0f / 3, 2.0f / 5, 2.0f / 7, 2.0f / 9,
                               2.0f / 11, 2.0f / 13, 2.0f / 15);
  return hn::MulAdd(s, series, AtLeast(x, hn::Zero(d)));
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_SOFTPLUS_H_
