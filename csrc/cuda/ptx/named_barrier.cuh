// Barriers of some of a block's warps, by number: 1 to 15, as __syncthreads() is 0.
#ifndef VLLM_KERNELS_CUDA_PTX_NAMED_BARRIER_CUH_
#define VLLM_KERNELS_CUDA_PTX_NAMED_BARRIER_CUH_

namespace vk::cuda::ptx {

// "bar.sync": waits until `threads` threads, a multiple of 32, have arrived.
__device__ __forceinline__ void named_barrier_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// "bar.arrive": counts as an arrival, does not wait.
__device__ __forceinline__ void named_barrier_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_NAMED_BARRIER_CUH_
