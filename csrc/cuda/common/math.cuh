// Functions of float32 that several kernels need. T is the type that results are rounded to: the
// 16-bit ones let exponential and reciprocal be the hardware's approximations.
#ifndef VLLM_KERNELS_CUDA_COMMON_MATH_CUH_
#define VLLM_KERNELS_CUDA_COMMON_MATH_CUH_

#include <type_traits>

#include "cuda/ptx/arithmetic.cuh"

namespace vk::cuda {

// e^x for x <= 0. The approximation is a square: the instruction drops subnormal values, the
// product keeps them.
template <class T>
__device__ __forceinline__ float Exp(float x) {
  if constexpr (std::is_same_v<T, float>) return expf(x);
  const float root = ptx::ex2_approx_ftz(x * 0.72134752f);
  return root * root;
}

// 1 / x, 1 ulp, for an x in [1, 2^126].
__device__ __forceinline__ float FastReciprocal(float x) { return ptx::rcp_approx_ftz(x); }

// 1 / (1 + e^-x), from e^-|x|, which cannot overflow: exact to rounding also where it is near 0.
template <class T>
__device__ __forceinline__ float Sigmoid(float x) {
  const float e = Exp<T>(-fabsf(x));
  const float numerator = x < 0.0f ? e : 1.0f;
  if constexpr (std::is_same_v<T, float>) return numerator / (1.0f + e);
  return numerator * FastReciprocal(1.0f + e);
}

// The standard normal distribution function, (1 + erf(x / sqrt 2)) / 2, also in the lower tail,
// where 1 + erf would cancel. The caller multiplies by x.
template <class T>
__device__ __forceinline__ float NormalCdf(float x) {
  if constexpr (std::is_same_v<T, float>) return normcdff(x);
  // Past 15 the tail is below the smallest subnormal; the bound keeps infinity out of a * a. It
  // drops a NaN, which the caller's x brings back.
  const float a = fminf(fabsf(x), 15.0f);
  const float e = Exp<T>(-0.5f * a * a);
  // With u = (a - 3) / (a + 3): (a + 3) e^(a^2 / 2) erfc(a / sqrt 2) / 2, to 2e-5 of itself.
  const float inverse = FastReciprocal(a + 3.0f);
  const float u = (a - 3.0f) * inverse;
  float p = 0.0049890876f;
  p = fmaf(p, u, -0.0097725475f);
  p = fmaf(p, u, -0.046364736f);
  p = fmaf(p, u, 0.22985516f);
  p = fmaf(p, u, -0.50942338f);
  p = fmaf(p, u, 0.72909087f);
  const float tail = p * inverse * e;
  return x < 0.0f ? tail : 1.0f - tail;
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_MATH_CUH_
