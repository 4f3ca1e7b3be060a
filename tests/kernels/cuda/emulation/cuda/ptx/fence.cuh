#ifndef VLLM_KERNELS_TESTS_PTX_FENCE_CUH_
#define VLLM_KERNELS_TESTS_PTX_FENCE_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline void fence_proxy_async() {}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_FENCE_CUH_
