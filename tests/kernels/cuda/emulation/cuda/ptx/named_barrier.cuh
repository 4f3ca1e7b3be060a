#ifndef VLLM_KERNELS_TESTS_PTX_NAMED_BARRIER_CUH_
#define VLLM_KERNELS_TESTS_PTX_NAMED_BARRIER_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline emulation::Meeting& NamedBarrier(int barrier) {
  if (barrier < 1 || barrier > 15) emulation::Fail("number of a named barrier");
  return emulation::MyBlock().named[barrier];
}
inline void named_barrier_sync(int barrier, int threads) {
  emulation::Meet(NamedBarrier(barrier), threads);
}
inline void named_barrier_arrive(int barrier, int threads) {
  emulation::Arrive(NamedBarrier(barrier), threads);
}
inline bool named_barrier_or(int barrier, int threads, bool value) {
  emulation::Meeting& meeting = NamedBarrier(barrier);
  meeting.any = meeting.any || value;
  emulation::Meet(meeting, threads);
  return meeting.any_of_last;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_NAMED_BARRIER_CUH_
