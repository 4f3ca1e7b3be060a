#include "cuda/wna16/large_experts/gather.cuh"

#include "cuda/common/launch.h"
#include "cuda/wna16/large_experts/gather.h"

namespace vk::cuda::wna16 {

void GatherTokens(const char* op, void* out, const Activations& a,
                  const MarlinExpertParams& experts, int64_t places, int k, cudaStream_t stream) {
  LaunchPdl(op, GatherTokensKernel, GridX(op, places), kGatherThreads, 0, stream,
            static_cast<uint4*>(out), static_cast<const uint4*>(a.a), a.lda / 8, k / 8, experts);
}

}  // namespace vk::cuda::wna16
