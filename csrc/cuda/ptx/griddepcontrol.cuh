// Programmatic dependent launch (compute capability 9.0); on older GPUs kernels follow one another
// anyway.
#ifndef VLLM_KERNELS_CUDA_PTX_GRIDDEPCONTROL_CUH_
#define VLLM_KERNELS_CUDA_PTX_GRIDDEPCONTROL_CUH_

namespace vk::cuda::ptx {

// "griddepcontrol", .launch_dependents: the next kernel may start when every block has said so or
// ended.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// "griddepcontrol", .wait: until the kernels before this one have ended and what they wrote is
// visible.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_GRIDDEPCONTROL_CUH_
