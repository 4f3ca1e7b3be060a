// What the grouped GEMM with scales of blocks is launched with, and how it cuts a product.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/moe_gemm/grouped.h"

namespace vk::cuda::moe_gemm {

constexpr int kScaleBlock = 128;  // weights' columns, and of k, that share a scale; kDepth too
constexpr int kFewTokens = 16;    // of the smaller boxes in which a tile of few tokens is copied

// Tokens lie either in rows of any expert (labels say whose), or in as many rows for each expert
// (counts say how many are used).
struct Blocks {
  void* out;
  const float *token_scales, *weight_scales;
  const int32_t* labels;  // [rows]: the expert, negative where there is none; or null
  const int32_t* counts;  // [experts], where labels are null
  // In elements: to the next row, the next expert's rows (0 with labels), the next chunk of k.
  int64_t out_row, out_expert;
  int64_t token_scale_row, token_scale_expert, token_scale_chunk;
  int64_t weight_scale_row, weight_scale_expert, weight_scale_chunk;
  int32_t rows, n, k, experts;  // rows: in all with labels, else of each expert
};

// A tile: so many tokens, and weights of two warpgroups' 64 rows once or twice.
struct BlocksPlan {
  int32_t tokens, waves;
};

// With labels: `alignment` rows, a multiple of kFewTokens, have one label, and a tile is a part of
// them.
inline BlocksPlan PlanLabelled(int64_t rows, int64_t experts, int64_t n, int64_t alignment) {
  if (alignment % 64 != 0) return {kFewTokens, 1};
  if (alignment % 128 != 0) return {64, 1};
  return {128, rows >= 256 * experts && n % (2 * kWeightRows) == 0 ? 2 : 1};
}

// Without: an expert has about `expected` rows. Tiles of twice as many weights read tokens half as
// often.
inline BlocksPlan PlanCounted(int64_t n, int64_t expected) {
  if (expected <= kFewTokens) return {kFewTokens, 1};
  if (expected <= 64) return {64, 1};
  return {128, expected >= 256 && n % (2 * kWeightRows) == 0 ? 2 : 1};
}

// Launches the kernel of one plan. `few_tokens`: the tokens in boxes of kFewTokens.
using BlocksLaunch = void(const char* op, const Blocks& blocks, const CUtensorMap& weights,
                          const CUtensorMap& tokens, const CUtensorMap& few_tokens, int32_t grid,
                          cudaStream_t stream);
BlocksLaunch LaunchBlocks16x1, LaunchBlocks64x1, LaunchBlocks128x1, LaunchBlocks128x2;

// The problem with the strides of its tensors, in bytes.
struct BlocksCall {
  Blocks blocks;
  const void *tokens, *weights;
  int64_t token_row, token_expert, weight_row, weight_expert;
};
void RunBlocks(const char* op, const BlocksCall& call, const BlocksPlan& plan, cudaStream_t stream);

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_H_
