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

// "st", .relaxed.sys: eight bytes at once, which any GPU sees some time; nothing else is ordered.
__device__ __forceinline__ void st_relaxed_sys(uint64_t* at, uint64_t value) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(at), "l"(value) : "memory");
}

// "ld", .relaxed.sys
__device__ __forceinline__ uint64_t ld_relaxed_sys(const uint64_t* at) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(at) : "memory");
  return value;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_LD_ST_CUH_
