// Programmatic dependent launch: a kernel that starts while the one before it ends (LaunchPdl).
#ifndef VLLM_KERNELS_CUDA_COMMON_PDL_CUH_
#define VLLM_KERNELS_CUDA_COMMON_PDL_CUH_

#include "cuda/ptx/griddepcontrol.cuh"

namespace vk::cuda {

// For kernels with nothing to do before the wait. Every kernel that LaunchPdl starts waits, in
// every thread, before it touches memory: the next kernel counts on it.
__device__ __forceinline__ void PdlPrologue() {
  ptx::griddepcontrol_launch_dependents();
  ptx::griddepcontrol_wait();
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_PDL_CUH_
