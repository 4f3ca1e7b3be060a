// How the grouped GEMM with scales of blocks cuts a product. Plain arithmetic, testable without a
// GPU.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_

#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::moe_gemm {

constexpr int kScaleBlock = 128;  // weights' columns, and of k, that share a scale
constexpr int kRowTokens = 128;   // of a tile with tokens as its rows (blocks_rows.cuh)
constexpr int kFewTokens = 16;    // of the smaller boxes in which a tile of few tokens is copied

// A tile: so many tokens, and weights. Tiles of kRowTokens tokens have them as their rows.
struct BlocksPlan {
  int32_t tokens, weights;
};

// Tiles of kRowTokens tokens and so many weights, and nanoseconds on an H200: of a chunk of 128 of
// k, and of a tile besides.
struct RowsTile {
  int32_t weights;
  int64_t chunk, rest;
};
constexpr RowsTile kRowsTiles[] = {{128, 430, 1200}, {192, 560, 1500}, {256, 757, 1800}};

// `tiles` of tokens, each with all of the n weights: as many rounds as a GPU takes.
constexpr int64_t RowsTime(const RowsTile& tile, int64_t tiles, int64_t n, int64_t k,
                           int64_t multiprocessors) {
  return CeilDiv(tiles * CeilDiv(n, tile.weights), multiprocessors) *
         (CeilDiv(k, kScaleBlock) * tile.chunk + tile.rest);
}

// The fastest tile of kRowTokens tokens.
inline BlocksPlan PlanRows(int64_t tiles, int64_t n, int64_t k, int64_t multiprocessors) {
  BlocksPlan best = {kRowTokens, 0};
  int64_t least = INT64_MAX;
  for (const RowsTile& tile : kRowsTiles) {
    const int64_t time = RowsTime(tile, tiles, n, k, multiprocessors);
    if (time <= least) {
      least = time;
      best.weights = tile.weights;
    }
  }
  return best;
}

// Those of 64 tokens have the weights as rows: of 256, they read tokens half as often. From 64 rows
// on, half a tile of kRowTokens is faster (measured there).
constexpr BlocksPlan PlanTurned64(int64_t n) {
  return {64, n % (2 * kScaleBlock) == 0 ? 2 * kScaleBlock : kScaleBlock};
}

// With labels: `alignment` rows, a multiple of kFewTokens, have one label, and a tile is a part of
// them.
inline BlocksPlan PlanLabelled(int64_t rows, int64_t n, int64_t k, int64_t alignment,
                               int64_t multiprocessors) {
  if (alignment % 64 != 0) return {kFewTokens, kScaleBlock};
  if (alignment % kRowTokens != 0) return PlanTurned64(n);
  return PlanRows(CeilDiv(rows, kRowTokens), n, k, multiprocessors);
}

// Without: each of the experts has about `expected` rows.
inline BlocksPlan PlanCounted(int64_t experts, int64_t n, int64_t k, int64_t expected,
                              int64_t multiprocessors) {
  if (expected < kFewTokens) return {kFewTokens, kScaleBlock};
  if (expected < 64) return PlanTurned64(n);
  return PlanRows(experts * CeilDiv(expected, kRowTokens), n, k, multiprocessors);
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_PLAN_H_
