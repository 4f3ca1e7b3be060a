// Atomic operations with an order.
#ifndef VLLM_KERNELS_CUDA_PTX_ATOMICS_CUH_
#define VLLM_KERNELS_CUDA_PTX_ATOMICS_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "atom", .add.acq_rel.gpu: adds to `*at`, in global memory, and returns what was there. Writes
// before the block's last barrier are visible to whichever block reads the sum.
__device__ __forceinline__ int32_t atom_add_acq_rel_gpu(int32_t* at, int32_t value) {
  int32_t old;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(at), "r"(value)
               : "memory");
  return old;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_ATOMICS_CUH_
