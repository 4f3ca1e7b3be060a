#ifndef VLLM_KERNELS_TESTS_PTX_CVTA_CUH_
#define VLLM_KERNELS_TESTS_PTX_CVTA_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline uint32_t cvta_to_shared(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - emulated_shared_memory);
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_CVTA_CUH_
