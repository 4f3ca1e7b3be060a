// Float32 elementary functions on whole vectors, for `*_tier.cc` files only. Accuracies are maxima
// over the stated range against float64. The polynomials are minimax fits (Remez exchange) of the
// function named beside them, with coefficients rounded to float32, lowest degree first.
#ifndef VLLM_KERNELS_CPU_MATH_H_
#define VLLM_KERNELS_CPU_MATH_H_

#include "cpu/vec.h"

namespace vk::VK_TIER {

// max(x, low) and min(x, high) that keep a NaN. x86's own instructions return their second operand
// when either is NaN; elsewhere the comparison does it.
HWY_INLINE VF AtLeast(VF x, VF low) {
#if HWY_ARCH_X86
  return hn::Max(low, x);
#else
  return hn::IfThenElse(hn::Lt(x, low), low, x);
#endif
}
HWY_INLINE VF AtMost(VF x, VF high) {
#if HWY_ARCH_X86
  return hn::Min(high, x);
#else
  return hn::IfThenElse(hn::Gt(x, high), high, x);
#endif
}

// c0 + c1 x + c2 x^2 + ... by Horner's rule.
HWY_INLINE VF Polynomial(VF, float c0) { return hn::Set(DF(), c0); }
template <class... Coefficients>
HWY_INLINE VF Polynomial(VF x, float c0, Coefficients... higher) {
  return hn::MulAdd(Polynomial(x, higher...), x, hn::Set(DF(), c0));
}

// a / b for finite b in [2^-60, 2^60] and |a| <= b: within 1 ulp, without the long latency of a
// division where the CPU offers an estimate good enough for one correction step.
HWY_INLINE VF Quotient(VF a, VF b) {
#if defined(__AVX512F__)
  const VF inverse = VF{_mm512_rcp14_ps(b.raw)};
  const VF estimate = hn::Mul(a, inverse);
  return hn::MulAdd(hn::NegMulAdd(estimate, b, a), inverse, estimate);
#else
  return hn::Div(a, b);
#endif
}

// e^x for x <= 0: 1 ulp, subnormal results included; 0 for -infinity, NaN for NaN.
HWY_INLINE VF ExpOfNegative(VF x) {
  x = AtLeast(x, hn::Set(DF(), -104.0f));  // below, the result rounds to 0
  // x / ln 2 = n + fraction. Adding 1.5 * 2^23 rounds to the integer n, and 127 + 64 more make its
  // low bits the exponent of 2^(n + 64), which is normal down to n = -150.
  const VF shift = hn::Set(DF(), 12582912.0f + 191.0f);
  const VF shifted = hn::MulAdd(x, hn::Set(DF(), 1.44269504f), shift);
  const VF n = hn::Sub(shifted, shift);
  // r = x - n ln 2, with ln 2 in two parts; |r| <= ln(2) / 2.
  VF r = hn::NegMulAdd(n, hn::Set(DF(), 0.69314575f), x);
  r = hn::NegMulAdd(n, hn::Set(DF(), 1.4286068e-06f), r);
  // (e^r - 1 - r) / r^2
  const VF q = Polynomial(r, 0.49999994f, 0.16666521f, 0.041668374f, 0.008368647f, 0.0013814965f);
  const VF e = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(DF(), 1.0f));
#if defined(__AVX512F__)
  return VF{_mm512_scalef_ps(e.raw, n.raw)};
#else
  const hn::RebindToUnsigned<DF> du;
  const VF power = hn::BitCast(DF(), hn::ShiftLeft<23>(hn::BitCast(du, shifted)));
  // The last factor is 2^-64: a subnormal result is rounded once, by this product.
  return hn::Mul(hn::Mul(e, power), hn::Set(DF(), 5.42101086e-20f));
#endif
}

// 1 / (1 + e^-x): 2.3 ulp, also where it is near 0. From e^-|x|, which cannot overflow.
HWY_INLINE VF Sigmoid(VF x) {
  const VF one = hn::Set(DF(), 1.0f);
  const VF e = ExpOfNegative(hn::Or(x, VF(hn::SignBit(DF()))));
  return Quotient(hn::IfNegativeThenElse(x, e, one), hn::Add(one, e));
}

// The standard normal distribution function, (1 + erf(x / sqrt 2)) / 2: 5.5 ulp (3.3e-7
// relative), also in the lower tail, where 1 + erf would cancel.
HWY_INLINE VF NormalCdf(VF x) {
  // Past 15 the tail is below the smallest subnormal; the bound keeps infinity out of a * a.
  const VF a = AtMost(hn::Abs(x), hn::Set(DF(), 15.0f));
  const VF square = hn::Mul(a, a);
  const VF lost = hn::MulSub(a, a, square);  // rounding error of the square, which e^ would amplify
  const VF half = hn::Set(DF(), 0.5f);
  VF e = ExpOfNegative(hn::Mul(square, hn::Set(DF(), -0.5f)));
  e = hn::NegMulAdd(e, hn::Mul(lost, half), e);
  // With u = (a - 3) / (a + 3): (a + 3) e^(a^2 / 2) erfc(a / sqrt 2) / 2.
  const VF one = hn::Set(DF(), 1.0f);
  const VF three = hn::Set(DF(), 3.0f);
  const VF inverse = Quotient(one, hn::Add(a, three));
  const VF p = Polynomial(hn::Mul(hn::Sub(a, three), inverse), 0.7290837f, -0.5093322f, 0.23001775f,
                          -0.047258306f, -0.010463008f, 0.0069379057f, 0.0010193927f,
                          -0.0009465609f, -0.00020680367f, 5.0178143e-05f);
  const VF tail = hn::Mul(hn::Mul(p, inverse), e);
  return hn::IfNegativeThenElse(x, tail, VF(hn::Sub(one, tail)));
}

// Activation functions. Each function is x times a distribution function of x; in this form none
// cancels for negative x.
struct Silu {
  HWY_INLINE VF operator()(VF x) const { return hn::Mul(x, Sigmoid(x)); }
};

struct Gelu {
  HWY_INLINE VF operator()(VF x) const { return hn::Mul(x, NormalCdf(x)); }
};

// (1 + tanh u) / 2 is the sigmoid of 2 u.
struct GeluTanh {
  HWY_INLINE VF operator()(VF x) const {
    const VF slope = hn::Set(DF(), 1.59576912f);  // 2 sqrt(2 / pi)
    const VF cubic = hn::Set(DF(), 1.59576912f * 0.044715f);
    const VF u = hn::Mul(x, hn::MulAdd(hn::Mul(x, x), cubic, slope));
    return hn::Mul(x, Sigmoid(u));
  }
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_MATH_H_
