// Launches of the grouped product: included by the generated instance files only.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_

#include "cuda/moe_gemm/grouped.cuh"

namespace vk::cuda::moe_gemm {

template <class T, int kTokens, int kCluster>
void LaunchCluster(const Grouped& g, const CUtensorMap& weights, const CUtensorMap& tokens,
                   int32_t blocks, cudaStream_t stream) {
  const auto kernel = &GroupedKernel<T, kTokens, kCluster>;
  using Tile = Tile<kTokens>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = Tile::kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = kCluster > 1 ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, g, weights, tokens);
}

template <int kTokens>
void LaunchTokens(const Grouped& g, const CUtensorMap& weights, const CUtensorMap& tokens,
                  bool bfloat16, int32_t cluster, int32_t blocks, cudaStream_t stream) {
  if (bfloat16 && cluster == 1) {
    LaunchCluster<BFloat16, kTokens, 1>(g, weights, tokens, blocks, stream);
  } else if (bfloat16) {
    LaunchCluster<BFloat16, kTokens, 2>(g, weights, tokens, blocks, stream);
  } else if (cluster == 1) {
    LaunchCluster<Half, kTokens, 1>(g, weights, tokens, blocks, stream);
  } else {
    LaunchCluster<Half, kTokens, 2>(g, weights, tokens, blocks, stream);
  }
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_LAUNCH_CUH_
