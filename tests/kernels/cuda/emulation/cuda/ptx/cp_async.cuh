#ifndef VLLM_KERNELS_TESTS_PTX_CP_ASYNC_CUH_
#define VLLM_KERNELS_TESTS_PTX_CP_ASYNC_CUH_

#include "cuda/ptx/cvta.cuh"
#include "device.h"

namespace vk::cuda::ptx {

// Arrives when it is waited for; until then its target is NaN.
inline void cp_async_cg(void* shared, const void* global, bool valid) {
  char* to = emulation::Shared(cvta_to_shared(shared), 16, 16);
  if (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    emulation::Fail("copy of an address that is no multiple of 16 bytes");
  }
  std::memset(to, 0x7f, 16);
  emulation::MyFiber().copies.open.push_back([=] {
    if (valid) {
      std::memcpy(to, global, 16);
    } else {
      std::memset(to, 0, 16);
    }
  });
}
inline void cp_async_cg_l2_128b(void* shared, const void* global, bool valid) {
  cp_async_cg(shared, global, valid);
}
inline void cp_async_commit_group() { emulation::MyFiber().copies.Commit(); }
template <int kPending>
void cp_async_wait_group() {
  emulation::MyFiber().copies.Wait(kPending);
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_CP_ASYNC_CUH_
