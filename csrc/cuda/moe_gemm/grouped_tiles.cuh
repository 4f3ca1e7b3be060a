// What the grouped GEMM's threads share, and which tile of the problem a block works on.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_TILES_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_TILES_CUH_

#include <cstdint>

#include "cuda/moe_gemm/grouped.h"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"

namespace vk::cuda::moe_gemm {

constexpr int kThreads = 384;
constexpr int kConsumerWarps = 8;

// Of each expert: first row and count of its tokens, tiles of tokens before it.
struct Table {
  int32_t first[kMaxExperts];
  int32_t count[kMaxExperts];
  int32_t before[kMaxExperts + 1];
};

// Results leave through shared memory, so many tokens of a warpgroup at a time.
constexpr int OutTokens(int tokens) { return tokens < 64 ? tokens : 64; }

template <int kTokens, int kStages>
struct SharedStorage {
  struct Stage {
    char weights[kWeightRows * kDepth];
    char tokens[kTokens * kDepth];
  };
  Stage stages[kStages];
  char out[2][OutTokens(kTokens) * 128];  // of a warpgroup each
  float scales[2][kTokens];
  Table table;
  typename sm90::Pipeline<kStages>::SharedStorage pipeline;
};

// As many stages as fit, up to 12.
template <int kTokens>
constexpr int StageCount() {
  constexpr int kLimit = 227 * 1024 - sm90::kTileAlignment;
  constexpr int kOne = sizeof(SharedStorage<kTokens, 1>);
  constexpr int kMore = sizeof(SharedStorage<kTokens, 2>) - kOne;
  constexpr int kFitting = 1 + (kLimit - kOne) / kMore;
  static_assert(kFitting >= 3);
  return kFitting < 12 ? kFitting : 12;
}

template <int kTokens>
using Storage = SharedStorage<kTokens, StageCount<kTokens>()>;

// All threads of the block.
template <int kTokens>
__device__ __forceinline__ void FillTable(const Grouped& g, Table& table) {
  for (int expert = threadIdx.x; expert < g.experts; expert += kThreads) {
    const int32_t* size = g.sizes + 3 * expert;
    const int64_t first = g.wide_first_rows ? static_cast<const int64_t*>(g.first_rows)[expert]
                                            : static_cast<const int32_t*>(g.first_rows)[expert];
    // The engine swaps M and N (swap_ab) for few tokens.
    int64_t count = size[1] == g.n ? size[0] : size[0] == g.n ? size[1] : 0;
    // Nothing outside of the tensors, whatever the sizes say.
    if (first < 0 || count < 0) count = 0;
    if (count > g.rows - first) count = first < g.rows ? g.rows - first : 0;
    table.first[expert] = static_cast<int32_t>(first);
    table.count[expert] = static_cast<int32_t>(count);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    int32_t total = 0;
    for (int base = 0; base < g.experts; base += 32) {
      const int expert = base + lane;
      const int32_t tiles = expert < g.experts ? (table.count[expert] + kTokens - 1) / kTokens : 0;
      int32_t sum = tiles;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      if (expert < g.experts) table.before[expert] = total + sum - tiles;
      total += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) table.before[g.experts] = total;
  }
  __syncthreads();
}

struct TileOfWork {
  int32_t expert, first_row, count;  // tokens of the tile; count: those of the expert
  int32_t weight_row;
};

// Tile `index`: of an expert's tiles those that read the same weights follow each other, in groups
// of as many tokens as the L2 holds beside them. Their order turns by one each time that all blocks
// have taken a tile: else a block would always get an expert's last one, which is small, or never.
template <int kTokens>
__device__ __forceinline__ TileOfWork FindTile(const Grouped& g, const Table& table,
                                               int32_t columns, int32_t index) {
  constexpr int kGroup = 2048 / kTokens;
  const int32_t tile = index / columns;
  int low = 0, high = g.experts;  // the last expert with before[expert] <= tile
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.before[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int32_t tiles = table.before[low + 1] - table.before[low];
  int32_t local = index - table.before[low] * columns;
  const int32_t group = local / (kGroup * columns);
  local -= group * kGroup * columns;
  const int32_t members = min(kGroup, tiles - group * kGroup);
  const int32_t column = local / members;
  const int32_t turn = column * members / static_cast<int32_t>(gridDim.x);
  const int32_t member = (local - column * members + turn) % members;
  const int32_t first = (group * kGroup + member) * kTokens;
  return {low, table.first[low] + first, min(kTokens, table.count[low] - first),
          column * kWeightRows};
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_TILES_CUH_
