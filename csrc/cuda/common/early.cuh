// Programmatic dependent launch: a kernel that starts while the one before it ends (LaunchEarly).
#ifndef VLLM_KERNELS_CUDA_COMMON_EARLY_CUH_
#define VLLM_KERNELS_CUDA_COMMON_EARLY_CUH_

namespace vk::cuda {

// Compute capability 9.0 and newer; elsewhere kernels follow one another anyway. The next kernel
// may start when every block has said so or ended.
__device__ __forceinline__ void LetNextStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What a kernel before this one wrote may be touched after this, and only then. Every kernel that
// LaunchEarly starts calls it, in every thread: the next one counts on it.
__device__ __forceinline__ void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Both, where nothing can be done before.
__device__ __forceinline__ void StartEarly() {
  LetNextStart();
  WaitForPrevious();
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_EARLY_CUH_
