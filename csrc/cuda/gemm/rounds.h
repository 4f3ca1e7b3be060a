// How many rounds a GPU takes for a product's tiles: plain arithmetic, testable without one.
#ifndef VLLM_KERNELS_CUDA_GEMM_ROUNDS_H_
#define VLLM_KERNELS_CUDA_GEMM_ROUNDS_H_

#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::gemm {

// Rounds of tiles of 64 and of 128 rows, both of 128 columns, for FP8 by blocks on 9.0, times two
// and three: by measurement on an H200, a round of tiles of 128 rows, which come in pairs (clusters
// of two), takes one and a half times as long as one of 64.
struct RoundsOfTiles {
  int64_t few, many;
};
inline RoundsOfTiles WeighedRounds(int64_t m, int64_t n, int64_t multiprocessors) {
  const int64_t columns = CeilDiv(n, 128);
  return {2 * CeilDiv(CeilDiv(m, 64) * columns, multiprocessors),
          3 * CeilDiv(2 * CeilDiv(m, 256) * columns, multiprocessors)};
}

// Whether tiles of 64 rows are faster.
inline bool FewRowsAreFaster(int64_t m, int64_t n, int64_t multiprocessors) {
  const RoundsOfTiles rounds = WeighedRounds(m, n, multiprocessors);
  return rounds.few < rounds.many;
}

// Half rounds of 64 rows that the faster of the two takes.
inline int64_t TileRounds(int64_t m, int64_t n, int64_t multiprocessors) {
  const RoundsOfTiles rounds = WeighedRounds(m, n, multiprocessors);
  return rounds.few < rounds.many ? rounds.few : rounds.many;
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_ROUNDS_H_
