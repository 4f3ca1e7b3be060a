#ifndef VLLM_KERNELS_TESTS_PTX_CLUSTER_CUH_
#define VLLM_KERNELS_TESTS_PTX_CLUSTER_CUH_

#include "device.h"

namespace vk::cuda::ptx {

inline int cluster_ctarank() { return emulation::running; }
inline int cluster_nctarank() { return static_cast<int>(emulation::cluster.size()); }

// One meeting holds both: a thread waits for the generation that it arrived in.
inline int64_t awaited_generation[8][1024];
inline void cluster_arrive() {
  awaited_generation[emulation::running][emulation::current] =
      emulation::cluster_meeting.generation;
  emulation::Arrive(emulation::cluster_meeting, cluster_nctarank() * static_cast<int>(blockDim.x));
}
inline void cluster_wait() {
  while (emulation::cluster_meeting.generation ==
         awaited_generation[emulation::running][emulation::current]) {
    emulation::Yield();
  }
}

constexpr int kRankShift = 20;  // of an address that mapa() returns
inline uint32_t mapa(uint32_t shared, int rank) {
  if (rank < 0 || rank >= cluster_nctarank()) emulation::Fail("rank outside of the cluster");
  return static_cast<uint32_t>(rank) << kRankShift | shared;
}
inline void st_shared_cluster(uint32_t address, const float4& value) {
  const uint32_t rank = address >> kRankShift, shared = address % (1u << kRankShift);
  char* to = emulation::Shared(shared, 16, 16);
  if (static_cast<int>(rank) != emulation::running) {
    to = emulation::cluster[rank].shared.data() + shared;
  }
  std::memcpy(to, &value, sizeof(value));
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_TESTS_PTX_CLUSTER_CUH_
