#ifndef VLLM_KERNELS_TESTS_PTX_CP_ASYNC_CUH_
#define VLLM_KERNELS_TESTS_PTX_CP_ASYNC_CUH_

#include "cuda/ptx/cvta.cuh"
#include "device.h"

namespace vk::cuda::ptx {

// Arrives when it is waited for; until then its target is NaN.
template <uint32_t kBytes>
void CopyAsync(void* shared, const void* global, bool valid) {
  char* to = emulation::Shared(cvta_to_shared(shared), kBytes, kBytes);
  if (valid && reinterpret_cast<uintptr_t>(global) % kBytes != 0) {
    emulation::Fail("copy of an address that is no multiple of the bytes copied");
  }
  std::memset(to, 0x7f, kBytes);
  emulation::MyFiber().copies.open.push_back([=] {
    if (valid) {
      std::memcpy(to, global, kBytes);
    } else {
      std::memset(to, 0, kBytes);
    }
  });
}
inline void cp_async_cg(void* shared, const void* global, bool valid) {
  CopyAsync<16>(shared, global, valid);
}
inline void cp_async_ca_4(void* shared, const void* global) { CopyAsync<4>(shared, global, true); }
inline void cp_async_cg_l2_128b(void* shared, const void* global, bool valid) {
  cp_async_cg(shared, global, valid);
}
// With the copies of the thread that no group has.
inline void cp_async_mbarrier_arrive_noinc(uint32_t barrier) {
  emulation::Mbarrier& one = emulation::MyBlock().mbarriers.at(barrier);
  std::vector<emulation::Work> copies = std::move(emulation::MyFiber().copies.open);
  emulation::MyFiber().copies.open.clear();
  one.copies.push_back([&one, copies = std::move(copies)] {
    for (const emulation::Work& copy : copies) copy();
    --one.pending;
    one.Complete();
  });
}
inline void cp_async_commit_group() { emulation::MyFiber().copies.Commit(); }
template <int kPending>
void cp_async_wait_group() {
  emulation::MyFiber().copies.Wait(kPending);
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_CP_ASYNC_CUH_
