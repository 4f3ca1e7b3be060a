// Addresses in shared memory, as instructions take them.
#ifndef VLLM_KERNELS_CUDA_PTX_CVTA_CUH_
#define VLLM_KERNELS_CUDA_PTX_CVTA_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "cvta": the address in the .shared window of what a generic pointer into shared memory points to.
__device__ __forceinline__ uint32_t cvta_to_shared(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_CVTA_CUH_
