// Loads and stores that C++ has no words for.
#ifndef VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_
#define VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "st", .volatile.shared: is neither removed nor moved over other volatile statements.
__device__ __forceinline__ void st_volatile_shared(uint32_t address, float value) {
  asm volatile("st.volatile.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_
