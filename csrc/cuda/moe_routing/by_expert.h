// How the sort of sort_by_expert.cuh is cut: plain arithmetic, testable without a GPU.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_BY_EXPERT_H_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_BY_EXPERT_H_

#include <algorithm>
#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::moe_routing {

constexpr int kByExpertMaxThreads = 1024;
constexpr int kByExpertVector = 8;             // entries that a thread looks at together
constexpr int64_t kByExpertEntries = 1 << 14;  // at most: 32 KiB of shared memory

struct ByExpertPlan {
  int32_t blocks, threads;
  int32_t vectors;  // of a thread
};

// Four entries a thread while there are threads. `buckets`: experts, and what is left out.
inline ByExpertPlan PlanByExpert(int64_t entries, int32_t buckets, int32_t multiprocessors) {
  ByExpertPlan plan{};
  plan.blocks = std::min(buckets, multiprocessors);
  plan.threads = static_cast<int32_t>(
      std::clamp<int64_t>(RoundUp(CeilDiv(entries, 4), 32), 128, kByExpertMaxThreads));
  const int64_t share = int64_t{plan.threads} * kByExpertVector;
  plan.vectors = static_cast<int32_t>(std::max<int64_t>(CeilDiv(entries, share), 1));
  return plan;
}

}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_BY_EXPERT_H_
