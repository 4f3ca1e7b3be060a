#include "cuda/gated_delta_rule/drafts.cuh"

namespace vk::cuda::gated_delta_rule {

void LaunchDrafts(const char* op, const Drafts& drafts, int32_t dtype, int32_t state_dtype,
                  cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(drafts.heads), static_cast<unsigned>(drafts.requests));
  const auto launch = [&](auto type) {
    using T = typename decltype(type)::type;
    const auto kernel = state_dtype == VK_F32 ? DraftsKernel<T, float> : DraftsKernel<T, BFloat16>;
    LaunchPdl(op, kernel, grid, kDraftThreads, sizeof(DraftsSharedStorage), stream, drafts);
  };
  if (dtype == VK_BF16) {
    launch(Type<BFloat16>());
  } else {
    launch(Type<Half>());
  }
}

}  // namespace vk::cuda::gated_delta_rule
