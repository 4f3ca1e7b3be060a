// Functions of float32 that several families need. T is the type that results are rounded to: the
// 16-bit ones let the exponential be the hardware's approximation, 2 ulp near 0.
#ifndef VLLM_KERNELS_CUDA_COMMON_MATH_CUH_
#define VLLM_KERNELS_CUDA_COMMON_MATH_CUH_

#include <type_traits>

namespace vk::cuda {

template <class T>
__device__ __forceinline__ float Exp(float x) {
  return std::is_same_v<T, float> ? expf(x) : __expf(x);
}

// 1 / (1 + e^-x), from e^-|x|, which cannot overflow: exact to rounding also where it is near 0.
template <class T>
__device__ __forceinline__ float Sigmoid(float x) {
  const float e = Exp<T>(-fabsf(x));
  const float numerator = x < 0.0f ? e : 1.0f;
  // The denominator is in [1, 2], where the fast division is 2 ulp.
  return std::is_same_v<T, float> ? numerator / (1.0f + e) : __fdividef(numerator, 1.0f + e);
}

// The standard normal distribution function, (1 + erf(x / sqrt 2)) / 2, also in the lower tail,
// where 1 + erf would cancel: as the CPU kernels have it.
template <class T>
__device__ __forceinline__ float NormalCdf(float x) {
  if constexpr (std::is_same_v<T, float>) return normcdff(x);
  // Past 15 the tail is below the smallest subnormal; the bound keeps infinity out of a * a.
  const float a = fabsf(x) < 15.0f ? fabsf(x) : fabsf(x) > 0.0f ? 15.0f : fabsf(x);
  const float e = Exp<T>(-0.5f * a * a);
  // With u = (a - 3) / (a + 3): (a + 3) e^(a^2 / 2) erfc(a / sqrt 2) / 2.
  const float inverse = __fdividef(1.0f, a + 3.0f);
  const float u = (a - 3.0f) * inverse;
  float p = 5.0178143e-05f;
  p = fmaf(p, u, -0.00020680367f);
  p = fmaf(p, u, -0.0009465609f);
  p = fmaf(p, u, 0.0010193927f);
  p = fmaf(p, u, 0.0069379057f);
  p = fmaf(p, u, -0.010463008f);
  p = fmaf(p, u, -0.047258306f);
  p = fmaf(p, u, 0.23001775f);
  p = fmaf(p, u, -0.5093322f);
  p = fmaf(p, u, 0.7290837f);
  const float tail = p * inverse * e;
  return x < 0.0f ? tail : 1.0f - tail;
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_MATH_CUH_
