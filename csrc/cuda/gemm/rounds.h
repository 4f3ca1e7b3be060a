// How many rounds a GPU takes for a product's tiles: plain arithmetic, testable without one.
#ifndef VLLM_KERNELS_CUDA_GEMM_ROUNDS_H_
#define VLLM_KERNELS_CUDA_GEMM_ROUNDS_H_

#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::gemm {

// Whether tiles of 64 rows are faster than those of 128, both of 128 columns, for FP8 by blocks on
// 9.0. By measurement on an H200: a round of tiles of 128 rows, which come in pairs (clusters of
// two), takes one and a half times as long as one of 64.
inline bool FewRowsAreFaster(int64_t m, int64_t n, int64_t multiprocessors) {
  const int64_t columns = CeilDiv(n, 128);
  const int64_t few = CeilDiv(CeilDiv(m, 64) * columns, multiprocessors);
  const int64_t many = CeilDiv(2 * CeilDiv(m, 256) * columns, multiprocessors);
  return 2 * few < 3 * many;
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_ROUNDS_H_
