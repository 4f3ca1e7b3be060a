// Launches of the grouped GEMM with scales of blocks: included by the generated instances only.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LAUNCH_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LAUNCH_CUH_

#include "cuda/common/launch.h"
#include "cuda/moe_gemm/blocks.cuh"

namespace vk::cuda::moe_gemm {

template <int kTokens, int kWaves>
void LaunchBlocks(const char* op, const Blocks& blocks, const CUtensorMap& weights,
                  const CUtensorMap& tokens, const CUtensorMap& few_tokens, int32_t grid,
                  cudaStream_t stream) {
  using Storage = typename BlocksBlock<kTokens, kWaves>::Storage;
  LaunchKernel(op, &BlocksKernel<kTokens, kWaves>,
               {dim3(grid), dim3(kThreads), sm90::kSharedBytes<Storage>, stream, true}, blocks,
               weights, tokens, few_tokens);
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_LAUNCH_CUH_
