// Barriers of some of a block's warps, by number: 1 to 15, as __syncthreads() is 0.
#ifndef VLLM_KERNELS_CUDA_PTX_NAMED_BARRIER_CUH_
#define VLLM_KERNELS_CUDA_PTX_NAMED_BARRIER_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "bar.sync": waits until `threads` threads, a multiple of 32, have arrived.
__device__ __forceinline__ void named_barrier_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// "bar.arrive": counts as an arrival, does not wait.
__device__ __forceinline__ void named_barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// "bar.red.or": named_barrier_sync(), and whether `value` is true for one of the threads.
__device__ __forceinline__ bool named_barrier_or(int barrier, int threads, bool value) {
  uint32_t any;
  asm volatile(
      "{.reg .pred p, q;\n"
      "setp.ne.b32 p, %3, 0;\n"
      "bar.red.or.pred q, %1, %2, p;\n"
      "selp.u32 %0, 1, 0, q;}"
      : "=r"(any)
      : "r"(barrier), "r"(threads), "r"(static_cast<int>(value))
      : "memory");
  return any != 0;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_NAMED_BARRIER_CUH_
