// Conversions: "cvt" of the PTX ISA.
#ifndef VLLM_KERNELS_CUDA_PTX_CVT_CUH_
#define VLLM_KERNELS_CUDA_PTX_CVT_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// To the nearest integer, ties to even, saturated to int8.
__device__ __forceinline__ int32_t cvt_rni_sat_s8_f32(float x) {
  int32_t integer;
  asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(integer) : "f"(x));
  return integer;
}

// Two float8 e4m3 to two float16 (compute capability 8.9).
__device__ __forceinline__ uint32_t cvt_rn_f16x2_e4m3x2(uint16_t pair) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(pair));
  return halves;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_CVT_CUH_
