// FP8 by blocks on 9.0, many rows: in which tiles of the experts' kernel (blocks_sm90.cuh), if any.
// Plain arithmetic, testable without a GPU.
#ifndef VLLM_KERNELS_CUDA_GEMM_BLOCKS_PLAN_H_
#define VLLM_KERNELS_CUDA_GEMM_BLOCKS_PLAN_H_

#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::gemm {

struct BlocksTile {
  int columns;  // of tiles of 128 rows; 0: another kernel is faster
  int split;    // blocks that share k
  int64_t time;
};

// Nanoseconds on an H200: a chunk of 128 of k of a round of tiles (of one round, of several), what
// a round takes besides, and the rest of a product.
inline BlocksTile PlanBlocks(int64_t m, int64_t n, int64_t k, int64_t multiprocessors) {
  struct Shape {
    int columns, split, chunk_of_one, chunk, round;
  };
  constexpr Shape kShapes[] = {{64, 2, 265, 310, 1200},
                               {64, 1, 265, 310, 600},
                               {128, 1, 430, 430, 1000},
                               {256, 1, 810, 810, 1500}};
  constexpr int64_t kRest = 2500, kFewestRows = 65;  // measured from there on
  constexpr int64_t kMost = INT32_MAX - 256;         // the kernel rounds up to tiles in 32 bits
  const int64_t chunks = CeilDiv(k, 128);
  BlocksTile best = {0, 1, INT64_MAX};
  if (m < kFewestRows || m > kMost || n > kMost || k > kMost) return best;
  for (const Shape& shape : kShapes) {
    const int64_t blocks = CeilDiv(m, 128) * CeilDiv(n, shape.columns) * shape.split;
    if (shape.split > 1 && (blocks > multiprocessors || chunks < shape.split)) continue;
    const int64_t rounds = CeilDiv(blocks, multiprocessors);
    const int64_t chunk = rounds == 1 ? shape.chunk_of_one : shape.chunk;
    const int64_t time = kRest + rounds * (CeilDiv(chunks, shape.split) * chunk + shape.round);
    if (time < best.time) best = {shape.columns, shape.split, time};
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
