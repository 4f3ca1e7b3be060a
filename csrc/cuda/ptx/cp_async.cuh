// Asynchronous copies by each thread (compute capability 8.0); 7.5 copies at once.
#ifndef VLLM_KERNELS_CUDA_PTX_CP_ASYNC_CUH_
#define VLLM_KERNELS_CUDA_PTX_CP_ASYNC_CUH_

#include <cstdint>

#include "cuda/ptx/cvta.cuh"

namespace vk::cuda::ptx {

// "cp.async", .cg (past L1): 16 bytes from `global` to `shared`, both aligned to 16. Writes zeros,
// and reads nothing, where `valid` is false.
__device__ __forceinline__ void cp_async_cg(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cvta_to_shared(shared)),
               "l"(global), "r"(valid ? 16 : 0));
#else
  uint4 bytes = make_uint4(0, 0, 0, 0);
  if (valid) bytes = __ldg(static_cast<const uint4*>(global));
  *static_cast<uint4*>(shared) = bytes;
#endif
}

// The same with .L2::128B: the L2 fetches the whole line of 128 bytes.
__device__ __forceinline__ void cp_async_cg_l2_128b(void* shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(cvta_to_shared(shared)),
      "l"(global), "r"(valid ? 16 : 0));
#else
  cp_async_cg(shared, global, valid);
#endif
}

// "cp.async", .ca: 4 bytes.
__device__ __forceinline__ void cp_async_ca_4(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(cvta_to_shared(shared)),
               "l"(global));
#else
  *static_cast<uint32_t*>(shared) = __ldg(static_cast<const uint32_t*>(global));
#endif
}

// "cp.async.mbarrier.arrive", .noinc: one of the arrivals that the barrier counts, as soon as the
// thread's copies so far are there. `barrier` is its address.
__device__ __forceinline__ void cp_async_mbarrier_arrive_noinc(uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

// "cp.async.commit_group": the thread's copies since the last commit become a group.
__device__ __forceinline__ void cp_async_commit_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}

// "cp.async.wait_group": until at most `kPending` of the thread's latest groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
#endif
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_CP_ASYNC_CUH_
