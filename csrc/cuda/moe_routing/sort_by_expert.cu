#include "cuda/moe_routing/sort_by_expert.cuh"

#include "cuda/common/launch.h"

namespace vk::cuda::moe_routing {
namespace {

template <class Kind>
void Launch(const char* op, const Sort& sort, cudaStream_t stream) {
  const int32_t buckets = sort.buckets + (Kind::kTail ? 1 : 0);
  const ByExpertPlan plan = PlanByExpert(sort.entries, buckets, CurrentDevice(op).multiprocessors);
  const size_t shared = sizeof(uint16_t) * plan.threads * plan.vectors * kByExpertVector +
                        sizeof(ByExpertSharedStorage) + sizeof(int) * buckets;
  LaunchPdl(op, SortByExpertKernel<Kind>, plan.blocks, plan.threads, shared, stream, sort,
            plan.vectors);
}

}  // namespace

void LaunchAlignByExpert(const char* op, const Sort& sort, cudaStream_t stream) {
  Launch<Align>(op, sort, stream);
}

void LaunchPermutationByExpert(const char* op, const Sort& sort, cudaStream_t stream) {
  Launch<Permutation>(op, sort, stream);
}

void LaunchGroupingByExpert(const char* op, const Sort& sort, cudaStream_t stream) {
  Launch<Grouping>(op, sort, stream);
}

}  // namespace vk::cuda::moe_routing
