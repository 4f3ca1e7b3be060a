#ifndef VLLM_KERNELS_TESTS_PTX_LD_ST_CUH_
#define VLLM_KERNELS_TESTS_PTX_LD_ST_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline void st_volatile_shared(uint32_t address, float value) {
  std::memcpy(emulation::Shared(address, 4, 4), &value, 4);
}

// Other threads run before and after, which the thread that waits for one counts on.
inline void st_release_sys(uint32_t* at, uint32_t value) {
  emulation::Yield();
  *at = value;
}
inline uint32_t ld_acquire_sys(const uint32_t* at) {
  emulation::Yield();
  return *at;
}

inline void st_relaxed_sys(uint64_t* at, uint64_t value) {
  emulation::Yield();
  *at = value;
}
inline uint64_t ld_relaxed_sys(const uint64_t* at) {
  emulation::Yield();
  return *at;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_LD_ST_CUH_
