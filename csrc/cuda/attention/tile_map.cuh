// From the index of a tile of query rows to its request, without a plan: the tiles of request i
// begin at floor(first row of i / rows of a tile) + i, which leaves room for all of them.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_TILE_MAP_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_TILE_MAP_CUH_

#include <cstdint>

#include "cuda/attention/problem.h"

namespace vk::cuda::attention {

struct RowTile {
  int32_t request;
  int32_t first_row;  // of the request; row r is query token r / group
};

__host__ __device__ inline int64_t TileCount(int64_t tokens, int64_t requests, int64_t group,
                                             int64_t tile_rows) {
  return tokens * group / tile_rows + requests;
}

// `query_start` ascends from 0; `tile` may be past the last request's, whose index it then gets.
__host__ __device__ inline RowTile FindTile(const int32_t* query_start, int32_t requests,
                                            int32_t group, int32_t tile_rows, int32_t tile) {
  int32_t low = 0, high = requests - 1;  // the last request that begins at or before the tile
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    const int64_t rows = static_cast<int64_t>(query_start[middle]) * group;
    if (rows / tile_rows + middle <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const int64_t rows = static_cast<int64_t>(query_start[low]) * group;
  const int64_t local = tile - (rows / tile_rows + low);
  return {low, static_cast<int32_t>(local * tile_rows)};
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_TILE_MAP_CUH_
