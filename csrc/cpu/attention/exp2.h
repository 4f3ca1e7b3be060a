// exp2 for the softmax, for `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_ATTENTION_EXP2_H_
#define VLLM_KERNELS_CPU_ATTENTION_EXP2_H_

#include "cpu/vec.h"

namespace vk::VK_TIER {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLowestExponent = -126.0f;  // of a normal float32

enum class Exp2Error {
  kFloat,     // 8e-8 relative (0.94 ulp)
  kBfloat16,  // 8e-5 relative: far below the 2e-3 that rounding to bfloat16 costs
};

// 2^x for x <= 0; exactly 0 below -126 (also for -inf), NaN for NaN. Minimax polynomials (Remez,
// relative error) on [-1/2, 1/2]; the integer part goes into the exponent.
template <Exp2Error kError = Exp2Error::kFloat>
HWY_INLINE VF Exp2(VF x) {
  const DF d;
  const hn::RebindToUnsigned<DF> du;
  // Adding 1.5 * 2^23 leaves round(x) in the low bits of the mantissa.
  const VF magic = hn::Set(d, 12582912.0f);
  const VF shifted = hn::Add(x, magic);
  const VF f = hn::Sub(x, hn::Sub(shifted, magic));
  VF p;
  if constexpr (kError == Exp2Error::kBfloat16) {
    p = hn::Set(d, 0x1.c3f776p-5f);
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.f0de1ap-3f));
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.62f31ap-1f));
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.fff692p-1f));
  } else {
    p = hn::Set(d, 0x1.41d334p-13f);
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.5f456ap-10f));
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.3b2dbcp-7f));
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.c6aed4p-5f));
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.ebfbdap-3f));
    p = hn::MulAdd(p, f, hn::Set(d, 0x1.62e43p-1f));
    p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  }
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(du, shifted));
  const VF scaled = hn::BitCast(d, hn::Add(hn::BitCast(du, p), exponent));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kLowestExponent)), scaled);
}

// tanh(x), 2e-7 absolute: 1 - 2 / (exp(2 |x|) + 1), with exp(-2 |x|) so that nothing overflows.
HWY_INLINE VF Tanh(VF x) {
  const DF d;
  const VF one = hn::Set(d, 1.0f);
  const VF e = Exp2(hn::Mul(hn::Abs(x), hn::Set(d, -2.0f * kLog2E)));
  return hn::CopySign(hn::Div(hn::Sub(one, e), hn::Add(one, e)), hn::Vec<DF>(x));
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_EXP2_H_
