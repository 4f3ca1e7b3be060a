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

// With labels: `alignment` rows, a multiple of kFewTokens, have one label, and a tile is a part of
// them.
inline BlocksPlan PlanLabelled(int64_t rows, int64_t experts, int64_t n, int64_t alignment) {
  if (alignment % 64 != 0) return {kFewTokens, 1};
  if (alignment % 128 != 0) return {64, 1};
  return {128, rows >= 256 * experts && n % (2 * kScaleBlock) == 0 ? 2 : 1};
}

// Without: an expert has about `expected` rows. Tiles of twice as many weights read tokens half as
// often.
inline BlocksPlan PlanCounted(int64_t n, int64_t expected) {
  if (expected <= kFewTokens) return {kFewTokens, 1};
  if (expected <= 64) return {64, 1};
  return {128, expected >= 256 && n % (2 * kScaleBlock) == 0 ? 2 : 1};
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
