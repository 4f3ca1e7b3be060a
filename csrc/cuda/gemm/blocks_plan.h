// FP8 by blocks on 9.0, many rows: in which tiles of the experts' kernel (blocks_sm90.cuh), if any.
// Plain arithmetic, testable without a GPU.
#ifndef VLLM_KERNELS_CUDA_GEMM_BLOCKS_PLAN_H_
#define VLLM_KERNELS_CUDA_GEMM_BLOCKS_PLAN_H_

#include <cstdint>

#include "cuda/common/divide.h"
#include "cuda/moe_gemm/blocks_plan.h"

namespace vk::cuda::gemm {

struct BlocksTile {
  int columns;  // of tiles of 128 rows; 0: another kernel is faster
  int split;    // blocks that share k
  int64_t time;
};

// Nanoseconds on an H200: tiles of 64 columns, alone or two for one, a chunk of 128 of k of a round
// (of one round, of several), what a round takes besides, and the rest of a product; the larger
// tiles are the experts'.
inline BlocksTile PlanBlocks(int64_t m, int64_t n, int64_t k, int64_t multiprocessors) {
  constexpr int64_t kChunkOfOne = 265, kChunk = 335, kRound = 600, kRest = 2500;
  constexpr int64_t kFewestRows = 65;         // measured from there on
  constexpr int64_t kMost = INT32_MAX - 256;  // the kernel rounds up to tiles in 32 bits
  const int64_t chunks = CeilDiv(k, 128);
  BlocksTile best = {0, 1, INT64_MAX};
  if (m < kFewestRows || m > kMost || n > kMost || k > kMost) return best;
  const int64_t rows = CeilDiv(m, moe_gemm::kRowTokens), narrow = rows * CeilDiv(n, 64);
  if (2 * narrow <= multiprocessors && chunks >= 2) {
    best = {64, 2, kRest + CeilDiv(chunks, 2) * kChunkOfOne + 2 * kRound};
  }
  const auto take = [&](int columns, int64_t time) {
    if (time < best.time) best = {columns, 1, time};
  };
  const int64_t rounds = CeilDiv(narrow, multiprocessors);
  take(64, kRest + rounds * (chunks * (rounds == 1 ? kChunkOfOne : kChunk) + kRound));
  for (const moe_gemm::RowsTile& tile : moe_gemm::kRowsTiles) {
    take(tile.weights, kRest + moe_gemm::RowsTime(tile, rows, n, k, multiprocessors));
  }
  // Of the tiles of gemm_sm90.cuh: those of 64 x 128, of which a block stores one while it
  // multiplies another, so that rounds are no whole ones, and of 128 x 128 in pairs.
  constexpr int64_t kOtherRest = 2200, kFew = 300, kFewRound = 300, kMany = 450, kManyRound = 1000;
  const int64_t columns = CeilDiv(n, 128), few = CeilDiv(m, 64) * columns;
  const int64_t few_time = (few < multiprocessors ? multiprocessors : few) *
                           (chunks * kFew + kFewRound) / multiprocessors;
  const int64_t many_time =
      CeilDiv(2 * CeilDiv(m, 256) * columns, multiprocessors) * (chunks * kMany + kManyRound);
  const int64_t other = kOtherRest + (few_time < many_time ? few_time : many_time);
  // Estimates: where they are near each other, those stay.
  if (20 * best.time >= 19 * other) best.columns = 0;
  return best;
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_BLOCKS_PLAN_H_
