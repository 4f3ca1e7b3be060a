// bfloat16 as CUDA's header of this name has it.
#ifndef VLLM_KERNELS_ROCM_CUDA_BF16_H_
#define VLLM_KERNELS_ROCM_CUDA_BF16_H_

#include <cuda_runtime.h>

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  // To the nearest, ties to even; a NaN stays one.
  __device__ __forceinline__ __nv_bfloat16(float x) {
    const uint32_t word = __float_as_uint(x);
    const uint32_t rounded = word + 0x7fffu + (word >> 16 & 1u);
    bits = static_cast<uint16_t>((x != x ? word | 0x00400000u : rounded) >> 16);
  }
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

__device__ __forceinline__ float __bfloat162float(__nv_bfloat16 x) {
  return __uint_as_float(uint32_t{x.bits} << 16);
}
__device__ __forceinline__ __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
__device__ __forceinline__ __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__nv_bfloat16(x), __nv_bfloat16(y)};
}

// A product of two bfloat16 is exact in float32: rounded once.
__device__ __forceinline__ __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __floats2bfloat162_rn(__bfloat162float(a.x) * __bfloat162float(b.x),
                               __bfloat162float(a.y) * __bfloat162float(b.y));
}
__device__ __forceinline__ __nv_bfloat162 __habs2(__nv_bfloat162 a) {
  a.x.bits &= 0x7fffu;
  a.y.bits &= 0x7fffu;
  return a;
}
__device__ __forceinline__ __nv_bfloat162 __hmax2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return __floats2bfloat162_rn(fmaxf(__bfloat162float(a.x), __bfloat162float(b.x)),
                               fmaxf(__bfloat162float(a.y), __bfloat162float(b.y)));
}

#endif  // VLLM_KERNELS_ROCM_CUDA_BF16_H_
