// Conversions (csrc/cuda/ptx/cvt.cuh).
#ifndef VLLM_KERNELS_ROCM_PTX_CVT_CUH_
#define VLLM_KERNELS_ROCM_PTX_CVT_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// A NaN becomes 0.
__device__ __forceinline__ int32_t cvt_rni_sat_s8_f32(float x) {
  if (x != x) return 0;
  return static_cast<int32_t>(__builtin_rintf(fminf(fmaxf(x, -128.0f), 127.0f)));
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_ROCM_PTX_CVT_CUH_
