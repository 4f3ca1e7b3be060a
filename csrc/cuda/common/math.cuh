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

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_MATH_CUH_
