// How the grouped GEMM with scales of blocks cuts a product. Plain arithmetic, testable without a
// GPU.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_

#include <cstdint>

namespace vk::cuda::moe_gemm {

constexpr int kScaleBlock = 128;  // weights' columns, and of k, that share a scale
constexpr int kRowTokens = 128;   // of a tile with tokens as its rows (blocks_rows.cuh)
constexpr int kFewTokens = 16;    // of the smaller boxes in which a tile of few tokens is copied

// A tile: so many tokens, and weights. Tiles of kRowTokens tokens have them as their rows.
struct BlocksPlan {
  int32_t tokens, weights;
};

// Measured on an H200: tiles of 256 weights, which read tokens half as often, are faster wherever
// the weights are whole ones.
constexpr int32_t WeightsOfTile(int64_t n) { return n % (2 * kScaleBlock) == 0 ? 256 : 128; }

// With labels: `alignment` rows, a multiple of kFewTokens, have one label, and a tile is a part of
// them.
inline BlocksPlan PlanLabelled(int64_t n, int64_t alignment) {
  if (alignment % 64 != 0) return {kFewTokens, kScaleBlock};
  return {alignment % kRowTokens == 0 ? kRowTokens : 64, WeightsOfTile(n)};
}

// Without: an expert has about `expected` rows.
inline BlocksPlan PlanCounted(int64_t n, int64_t expected) {
  if (expected < kFewTokens) return {kFewTokens, kScaleBlock};
  return {expected <= 64 ? 64 : kRowTokens, WeightsOfTile(n)};
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
