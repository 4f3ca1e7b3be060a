// Registers move between warpgroups (compute capability 9.0a).
#ifndef VLLM_KERNELS_CUDA_PTX_SETMAXNREG_CUH_
#define VLLM_KERNELS_CUDA_PTX_SETMAXNREG_CUH_

namespace vk::cuda::ptx {

// "setmaxnreg": the executing warps have kRegisters, a multiple of 8, from then on; inc waits until
// the block has as many.
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_SETMAXNREG_CUH_
