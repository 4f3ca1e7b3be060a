// How the grouped GEMM with scales of blocks cuts a product. Plain arithmetic, testable without a
// GPU.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_

#include <cstdint>

namespace vk::cuda::moe_gemm {

constexpr int kScaleBlock = 128;  // weights' columns, and of k, that share a scale
constexpr int kFewTokens = 16;    // of the smaller boxes in which a tile of few tokens is copied

// A tile: so many tokens, and weights of two warpgroups' 64 rows once or twice.
struct BlocksPlan {
  int32_t tokens, waves;
};

// Measured on an H200: tiles of 256 weights, which read tokens half as often, are faster wherever
// the weights are whole ones.
constexpr int32_t Waves(int64_t n) { return n % (2 * kScaleBlock) == 0 ? 2 : 1; }

// With labels: `alignment` rows, a multiple of kFewTokens, have one label, and a tile is a part of
// them.
inline BlocksPlan PlanLabelled(int64_t n, int64_t alignment) {
  if (alignment % 64 != 0) return {kFewTokens, 1};
  return {alignment % 128 == 0 ? 128 : 64, Waves(n)};
}

// Without: an expert has about `expected` rows. Tiles of 64 tokens are the faster ones with 256
// weights, whatever the rows.
inline BlocksPlan PlanCounted(int64_t n, int64_t expected) {
  if (expected < kFewTokens) return {kFewTokens, 1};
  if (Waves(n) == 2 || expected <= 64) return {64, Waves(n)};
  return {128, 1};
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
