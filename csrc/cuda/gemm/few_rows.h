// FP8 by blocks for few rows on 9.0: how few_rows.cuh cuts a product. Plain arithmetic, testable
// without a GPU.
#ifndef VLLM_KERNELS_CUDA_GEMM_FEW_ROWS_H_
#define VLLM_KERNELS_CUDA_GEMM_FEW_ROWS_H_

#include <cstdint>

#include "cuda/common/divide.h"

namespace vk::cuda::gemm {

constexpr int kFewRowsColumns = 64;            // of the result, in a tile
constexpr int kFewRowsDepth = 128;             // of K, in a chunk: what shares its scales
constexpr int kFewRowsThreads = 288;           // two warpgroups that multiply, a warp that loads
constexpr int kFewRowsMaxCluster = 8;          // what every GPU of 9.0 has
constexpr int kFewRowsTiles[] = {16, 32, 64};  // rows of a tile

struct FewRowsPlan {
  int rows;     // of a tile; 0: another kernel is faster
  int cluster;  // blocks that share K
  int chunks;   // that each takes
  int m_tiles, tiles;
  int64_t time;  // about, in nanoseconds on an H200
};

FewRowsPlan PlanFewRows(int64_t m, int64_t n, int64_t k, int multiprocessors);

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_FEW_ROWS_H_
