// Programmatic dependent launch (csrc/cuda/ptx/griddepcontrol.cuh): kernels follow one another.
#ifndef VLLM_KERNELS_ROCM_PTX_GRIDDEPCONTROL_CUH_
#define VLLM_KERNELS_ROCM_PTX_GRIDDEPCONTROL_CUH_

namespace vk::cuda::ptx {

__device__ __forceinline__ void griddepcontrol_launch_dependents() {}
__device__ __forceinline__ void griddepcontrol_wait() {}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_ROCM_PTX_GRIDDEPCONTROL_CUH_
