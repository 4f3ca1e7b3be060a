// Launches of the grouped GEMM: included by the generated instance files only.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_

#include "cuda/common/launch.h"
#include "cuda/moe_gemm/grouped.cuh"

namespace vk::cuda::moe_gemm {

template <class T, int kTokens>
void LaunchType(const char* op, const Grouped& g, const CUtensorMap& weights,
                const CUtensorMap& tokens, int32_t blocks, cudaStream_t stream) {
  const auto kernel = &GroupedKernel<T, kTokens>;
  LaunchKernel(op, kernel,
               {dim3(blocks), dim3(kThreads), sm90::kSharedBytes<Storage<kTokens>>, stream}, g,
               weights, tokens);
}

template <int kTokens>
void LaunchTokens(const char* op, const Grouped& g, const CUtensorMap& weights,
                  const CUtensorMap& tokens, bool bfloat16, int32_t blocks, cudaStream_t stream) {
  if (bfloat16) {
    LaunchType<BFloat16, kTokens>(op, g, weights, tokens, blocks, stream);
  } else {
    LaunchType<Half, kTokens>(op, g, weights, tokens, blocks, stream);
  }
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_
