// The functions of <math.h> that kernels call, for the device: instructions and what the compiler
// makes of its builtins. ROCm's device libraries are not needed.
#ifndef VLLM_KERNELS_ROCM_FUNCTIONS_H_
#define VLLM_KERNELS_ROCM_FUNCTIONS_H_

#include "rocm/numeric.h"

namespace vk::rocm {

// log(1 + x): the logarithm of the rounded sum times what the rounding has changed of x.
__device__ __forceinline__ float LogOnePlus(float x) {
  const float sum = 1.0f + x, difference = sum - 1.0f;
  return difference == 0.0f || sum == __builtin_inff() ? x : __builtin_logf(sum) * (x / difference);
}

// The standard normal distribution function. With u = (a - 3) / (a + 3), a the size of x, the
// polynomial is (a + 3) e^(a^2 / 2) erfc(a / sqrt 2) / 2 to 2e-10 of itself for a up to 15, past
// which the tail is 0.
__device__ __forceinline__ float NormalDistribution(float x) {
  const float a = __builtin_fminf(__builtin_fabsf(x), 15.0f);
  const float u = (a - 3.0f) / (a + 3.0f);
  float p = -8.33629656e-06f;
  p = __builtin_fmaf(p, u, -1.09354169e-05f);
  p = __builtin_fmaf(p, u, 6.66468259e-05f);
  p = __builtin_fmaf(p, u, 0.000149065192f);
  p = __builtin_fmaf(p, u, -0.000251263933f);
  p = __builtin_fmaf(p, u, -0.0010430431f);
  p = __builtin_fmaf(p, u, 0.00102644635f);
  p = __builtin_fmaf(p, u, 0.00697202049f);
  p = __builtin_fmaf(p, u, -0.010462747f);
  p = __builtin_fmaf(p, u, -0.0472629741f);
  p = __builtin_fmaf(p, u, 0.230017722f);
  p = __builtin_fmaf(p, u, -0.509332001f);
  p = __builtin_fmaf(p, u, 0.729083717f);
  const float tail = p / (a + 3.0f) * Gaussian(a);
  if (x != x) return x;
  return x < 0.0f ? tail : 1.0f - tail;
}

}  // namespace vk::rocm

#ifdef __HIP__
__device__ __forceinline__ void* memcpy(void* to, const void* from, size_t bytes) {
  return __builtin_memcpy(to, from, bytes);
}
__device__ __forceinline__ void* memset(void* to, int byte, size_t bytes) {
  return __builtin_memset(to, byte, bytes);
}
__device__ __forceinline__ float expf(float x) { return __builtin_expf(x); }
__device__ __forceinline__ float log1pf(float x) { return vk::rocm::LogOnePlus(x); }
__device__ __forceinline__ float sqrtf(float x) { return __builtin_sqrtf(x); }
__device__ __forceinline__ float fabsf(float x) { return __builtin_fabsf(x); }
__device__ __forceinline__ float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__device__ __forceinline__ float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
__device__ __forceinline__ float fminf(float a, float b) { return __builtin_fminf(a, b); }
__device__ __forceinline__ float rintf(float x) { return __builtin_rintf(x); }
__device__ __forceinline__ bool isnan(float x) { return x != x; }
__device__ __forceinline__ bool isinf(float x) { return __builtin_isinf(x); }
__device__ __forceinline__ bool isfinite(float x) { return __builtin_isfinite(x); }
template <class T>
__device__ __forceinline__ T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
__device__ __forceinline__ T max(T a, T b) {
  return a < b ? b : a;
}
#endif
__device__ __forceinline__ float rsqrtf(float x) { return 1.0f / __builtin_sqrtf(x); }
__device__ __forceinline__ float normcdff(float x) { return vk::rocm::NormalDistribution(x); }

#endif  // VLLM_KERNELS_ROCM_FUNCTIONS_H_
