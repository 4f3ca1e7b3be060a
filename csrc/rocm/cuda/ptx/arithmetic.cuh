// Approximations (csrc/cuda/ptx/arithmetic.cuh).
#ifndef VLLM_KERNELS_ROCM_PTX_ARITHMETIC_CUH_
#define VLLM_KERNELS_ROCM_PTX_ARITHMETIC_CUH_

#include "rocm/wave.h"

namespace vk::cuda::ptx {

__device__ __forceinline__ float ex2_approx_ftz(float x) { return rocm::Exp2(x); }
__device__ __forceinline__ float rcp_approx_ftz(float x) { return rocm::Reciprocal(x); }

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_ROCM_PTX_ARITHMETIC_CUH_
