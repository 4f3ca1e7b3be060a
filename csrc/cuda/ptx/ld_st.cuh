// Loads and stores that C++ has no words for.
#ifndef VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_
#define VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "st", .volatile.shared: is neither removed nor moved over other volatile statements.
__device__ __forceinline__ void st_volatile_shared(uint32_t address, float value) {
  asm volatile("st.volatile.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// "st", .release.sys: what this thread wrote or read before, and what barriers ordered before that,
// is done for whoever acquires the value, on any GPU.
__device__ __forceinline__ void st_release_sys(uint32_t* at, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

// "ld", .acquire.sys
__device__ __forceinline__ uint32_t ld_acquire_sys(const uint32_t* at) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_
