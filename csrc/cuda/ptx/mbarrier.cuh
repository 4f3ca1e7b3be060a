// Barriers in shared memory that count arrivals and the bytes of asynchronous copies (compute
// capability 9.0). `barrier` is the address of eight bytes.
#ifndef VLLM_KERNELS_CUDA_PTX_MBARRIER_CUH_
#define VLLM_KERNELS_CUDA_PTX_MBARRIER_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "mbarrier.init": a phase completes with that many arrivals and when all expected bytes are there.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// "fence.mbarrier_init": asynchronous copies and the cluster see the barriers initialised so far.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// "mbarrier.arrive"
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// "mbarrier.arrive", .expect_tx: the phase also waits for `bytes` bytes of copies.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// "mbarrier.try_wait", .parity: until the phase of that parity is complete.
__device__ __forceinline__ void mbarrier_wait_parity(uint32_t barrier, int parity) {
  asm volatile(
      "{.reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra again;\n"
      "done: }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// "mbarrier.test_wait", .parity: whether that phase is complete; does not wait.
__device__ __forceinline__ bool mbarrier_test_parity(uint32_t barrier, int parity) {
  uint32_t complete;
  asm volatile(
      "{.reg .pred p;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;}"
      : "=r"(complete)
      : "r"(barrier), "r"(parity)
      : "memory");
  return complete != 0;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_MBARRIER_CUH_
