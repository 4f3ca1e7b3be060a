#ifndef VLLM_KERNELS_TESTS_PTX_LD_ST_CUH_
#define VLLM_KERNELS_TESTS_PTX_LD_ST_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline void st_volatile_shared(uint32_t address, float value) {
  std::memcpy(emulation::Shared(address, 4, 4), &value, 4);
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_LD_ST_CUH_
