#ifndef VLLM_KERNELS_TESTS_PTX_MBARRIER_CUH_
#define VLLM_KERNELS_TESTS_PTX_MBARRIER_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline void mbarrier_init(uint32_t barrier, int arrivals) {
  emulation::Shared(barrier, 8, 8);
  emulation::MyBlock().mbarriers[barrier] = {arrivals, arrivals, 0, 0, {}};
}
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive_expect_tx(uint32_t barrier, int bytes) {
  emulation::Mbarrier& one = emulation::MyBlock().mbarriers.at(barrier);
  one.bytes += bytes;
  --one.pending;
  one.Complete();
}
inline void mbarrier_arrive(uint32_t barrier) { mbarrier_arrive_expect_tx(barrier, 0); }

// Copies arrive when nothing else is left to do, the latest first.
inline void mbarrier_wait_parity(uint32_t barrier, int parity) {
  emulation::Mbarrier& waited = emulation::MyBlock().mbarriers.at(barrier);
  for (int turns = 0; (waited.phase & 1) == parity; ++turns) {
    while (turns > 2 && !waited.copies.empty()) {
      const emulation::Work copy = std::move(waited.copies.back());
      waited.copies.pop_back();
      copy();
    }
    emulation::Yield();
  }
}

inline bool mbarrier_test_parity(uint32_t barrier, int parity) {
  return (emulation::MyBlock().mbarriers.at(barrier).phase & 1) != parity;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_MBARRIER_CUH_
