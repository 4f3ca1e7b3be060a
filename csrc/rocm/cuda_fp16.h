// float16 as CUDA's header of this name has it.
#ifndef VLLM_KERNELS_ROCM_CUDA_FP16_H_
#define VLLM_KERNELS_ROCM_CUDA_FP16_H_

#include <cuda_runtime.h>

struct __half {
  _Float16 value;
  __half() = default;
  __device__ __forceinline__ __half(float x) : value(static_cast<_Float16>(x)) {}
};
struct alignas(4) __half2 {
  __half x, y;
};

__device__ __forceinline__ float __half2float(__half x) { return static_cast<float>(x.value); }
__device__ __forceinline__ __half __float2half_rn(float x) { return __half(x); }
__device__ __forceinline__ __half2 __floats2half2_rn(float x, float y) {
  return {__half(x), __half(y)};
}
__device__ __forceinline__ __half __low2half(__half2 pair) { return pair.x; }
__device__ __forceinline__ __half __high2half(__half2 pair) { return pair.y; }

// A product of two float16 is exact in float32: rounded once.
__device__ __forceinline__ __half2 __hmul2(__half2 a, __half2 b) {
  return __floats2half2_rn(__half2float(a.x) * __half2float(b.x),
                           __half2float(a.y) * __half2float(b.y));
}
__device__ __forceinline__ __half2 __habs2(__half2 a) {
  return __floats2half2_rn(fabsf(__half2float(a.x)), fabsf(__half2float(a.y)));
}
__device__ __forceinline__ __half2 __hmax2(__half2 a, __half2 b) {
  return __floats2half2_rn(fmaxf(__half2float(a.x), __half2float(b.x)),
                           fmaxf(__half2float(a.y), __half2float(b.y)));
}

#endif  // VLLM_KERNELS_ROCM_CUDA_FP16_H_
