// Launches of the grouped product: included by the generated instance files only.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_

#include "cuda/moe_gemm/grouped.cuh"

namespace vk::cuda::moe_gemm {

template <class T, int kTokens>
void LaunchType(const Grouped& g, const CUtensorMap& weights, const CUtensorMap& tokens,
                int32_t blocks, cudaStream_t stream) {
  const auto kernel = &GroupedKernel<T, kTokens>;
  using Tile = Tile<kTokens>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  kernel<<<blocks, Tile::kThreads, Tile::kSharedBytes, stream>>>(g, weights, tokens);
}

template <int kTokens>
void LaunchTokens(const Grouped& g, const CUtensorMap& weights, const CUtensorMap& tokens,
                  bool bfloat16, int32_t blocks, cudaStream_t stream) {
  if (bfloat16) {
    LaunchType<BFloat16, kTokens>(g, weights, tokens, blocks, stream);
  } else {
    LaunchType<Half, kTokens>(g, weights, tokens, blocks, stream);
  }
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_
