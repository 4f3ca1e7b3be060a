// What the grouped GEMM with scales of blocks is launched with.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/moe_gemm/blocks_plan.h"
#include "cuda/moe_gemm/grouped.h"

namespace vk::cuda::moe_gemm {

// Tokens lie either in rows of any expert (labels say whose), or in as many rows for each expert
// (counts say how many are used; null: all).
struct Blocks {
  void* out;
  const float *token_scales, *weight_scales;
  const int32_t* labels;  // [rows]: the expert, negative where there is none; or null
  const int32_t* counts;  // [experts], where labels are null; or null
  // In elements: to the next row, the next expert's rows (0 with labels), the next chunk of k.
  int64_t out_row, out_expert;
  int64_t token_scale_row, token_scale_expert, token_scale_chunk;
  int64_t weight_scale_row, weight_scale_expert, weight_scale_chunk;
  int32_t rows, n, k, experts;  // rows: in all with labels, else of each expert
  bool half;                    // results are float16 (of tokens as rows only), else bfloat16
};

// The problem with the strides of its tensors, in bytes.
struct BlocksCall {
  Blocks blocks;
  const void *tokens, *weights;
  int64_t token_row, token_expert, weight_row, weight_expert;
};

// Launches the kernel of one plan: of the tile's tokens and weights.
using BlocksLaunch = void(const char* op, const BlocksCall& call, cudaStream_t stream);
BlocksLaunch LaunchTurned16x128, LaunchTurned64x128, LaunchTurned64x256, LaunchRows128x128,
    LaunchRows128x192, LaunchRows128x256;
void RunBlocks(const char* op, const BlocksCall& call, const BlocksPlan& plan, cudaStream_t stream);

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_H_
