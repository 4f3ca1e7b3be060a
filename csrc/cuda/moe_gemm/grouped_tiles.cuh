// What the grouped GEMM's threads share, and which tile of the problem a block works on.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_TILES_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_TILES_CUH_

#include <cstdint>

#include "cuda/moe_gemm/grouped.h"
#include "cuda/moe_gemm/store.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"

namespace vk::cuda::moe_gemm {

// The assembler of CUDA 12 lets products of a tile wait for each other where the first one
// overwrites the sums by a flag; cleared sums cost a few cycles.
#if defined(__CUDACC_VER_MAJOR__) && __CUDACC_VER_MAJOR__ < 13
constexpr bool kClearSums = true;
#else
constexpr bool kClearSums = false;
#endif

constexpr int kThreads = 384;
constexpr int kConsumerWarps = 8;

// Of each expert: count of its tokens, tiles of tokens before it.
struct CountTable {
  int32_t count[kMaxExperts];
  int32_t before[kMaxExperts + 1];

  __device__ __forceinline__ void SetFirst(int, int32_t) {}
  __device__ __forceinline__ int32_t First(int) const { return 0; }
};
// And first row of them.
struct Table : CountTable {
  int32_t first[kMaxExperts];

  __device__ __forceinline__ void SetFirst(int expert, int32_t row) { first[expert] = row; }
  __device__ __forceinline__ int32_t First(int expert) const { return first[expert]; }
};

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

// As many stages as fit, up to 12, by the storage of one and of two.
template <class One, class Two>
constexpr int FittingStages() {
  constexpr int kLimit = 227 * 1024 - sm90::kTileAlignment;
  constexpr int kOne = sizeof(One), kMore = sizeof(Two) - kOne;
  constexpr int kFitting = 1 + (kLimit - kOne) / kMore;
  static_assert(kFitting >= 3);
  return kFitting < 12 ? kFitting : 12;
}

template <int kTokens>
constexpr int StageCount() {
  return FittingStages<SharedStorage<kTokens, 1>, SharedStorage<kTokens, 2>>();
}

template <int kTokens>
using Storage = SharedStorage<kTokens, StageCount<kTokens>()>;

struct RowsOfExpert {
  int32_t first, count;
};

// What the sizes say of an expert.
__device__ __forceinline__ RowsOfExpert RowsOf(const Grouped& g, int expert) {
  const int32_t* size = g.sizes + 3 * expert;
  const int64_t first = g.wide_first_rows ? static_cast<const int64_t*>(g.first_rows)[expert]
                                          : static_cast<const int32_t*>(g.first_rows)[expert];
  // The engine swaps M and N (swap_ab) for few tokens.
  int64_t count = size[1] == g.n ? size[0] : size[0] == g.n ? size[1] : 0;
  // Nothing outside of the tensors, whatever the sizes say.
  if (first < 0 || count < 0) count = 0;
  if (count > g.rows - first) count = first < g.rows ? g.rows - first : 0;
  return {static_cast<int32_t>(first), static_cast<int32_t>(count)};
}

// All threads of the block. rows_of(expert): RowsOfExpert.
template <int kTokens, class AnyTable, class Rows>
__device__ __forceinline__ void FillTable(int32_t experts, AnyTable& table, const Rows& rows_of) {
  for (int expert = threadIdx.x; expert < experts; expert += kThreads) {
    const RowsOfExpert rows = rows_of(expert);
    table.SetFirst(expert, rows.first);
    table.count[expert] = rows.count;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int lane = static_cast<int>(threadIdx.x);
    int32_t total = 0;
    for (int base = 0; base < experts; base += 32) {
      const int expert = base + lane;
      const int32_t tiles = expert < experts ? (table.count[expert] + kTokens - 1) / kTokens : 0;
      int32_t sum = tiles;
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const int32_t other = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) sum += other;
      }
      if (expert < experts) table.before[expert] = total + sum - tiles;
      total += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) table.before[experts] = total;
  }
  __syncthreads();
}

struct TileOfWork {
  int32_t expert, first_row, count;  // tokens of the tile; count: those of the expert
  int32_t weight_row;
};

struct PlaceOfTile {
  int32_t member, column;  // which tile of tokens, which of weights
};

// Of `tiles` tiles of tokens, each with `columns` of weights, number `index`: those that read the
// same weights follow each other, in groups of as many tokens as the L2 holds beside them. Their
// order turns by one each time that all blocks have taken a tile: else a block would always get an
// expert's last one, which is small, or never.
template <int kTokens>
__device__ __forceinline__ PlaceOfTile PlaceInGroups(int32_t index, int32_t tiles,
                                                     int32_t columns) {
  constexpr int kGroup = 2048 / kTokens;
  const int32_t group = index / (kGroup * columns);
  index -= group * kGroup * columns;
  const int32_t members = min(kGroup, tiles - group * kGroup);
  const int32_t column = index / members;
  const int32_t turn = column * members / static_cast<int32_t>(gridDim.x);
  const int32_t member = (index - column * members + turn) % members;
  return {group * kGroup + member, column};
}

// Tile `index`, of kRows weights.
template <int kTokens, int kRows = kWeightRows, class AnyTable>
__device__ __forceinline__ TileOfWork FindTile(int32_t experts, const AnyTable& table,
                                               int32_t columns, int32_t index) {
  const int32_t tile = index / columns;
  int low = 0, high = experts;  // the last expert with before[expert] <= tile
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.before[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int32_t before = table.before[low];
  const PlaceOfTile place =
      PlaceInGroups<kTokens>(index - before * columns, table.before[low + 1] - before, columns);
  const int32_t first = place.member * kTokens;
  return {low, table.First(low) + first, min(kTokens, table.count[low] - first),
          place.column * kRows};
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_TILES_CUH_
