// What the threads of the grouped GEMM with scales of blocks share, and which tiles a block takes.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_WORKS_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_WORKS_CUH_

#include <cstdint>

#include "cuda/moe_gemm/blocks.h"
#include "cuda/moe_gemm/grouped_tiles.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/shared_storage.cuh"

namespace vk::cuda::moe_gemm {

template <int kTileTokens, int kRows, int kAllStages>
struct BlocksSharedStorage {
  static constexpr int kTokens = kTileTokens, kStages = kAllStages;
  struct Stage {
    char tokens[kTokens * kDepth];
    char weights[kRows * kDepth];
  };
  Stage stages[kStages];
  char out[2][OutTokens(kTokens) * 128];  // of a warpgroup each
  // Those that a thread needs of the tokens lie together: of tokens 2 q and 2 q + 1 of each eight,
  // q its number among four lanes. The gap keeps the four of them in different banks.
  struct Scales {
    alignas(16) float tokens[4][kTokens / 4 + 4];
    alignas(16) float weights[kRows / kWeightRows];

    __device__ __forceinline__ float* Of(int token) {
      return &tokens[token % 8 / 2][token / 8 * 2 + token % 2];
    }
  };
  Scales scales[kStages];
  CountTable table;  // without labels
  typename sm90::Pipeline<kStages>::SharedStorage pipeline;
};

template <int kTokens, int kRows>
using BlocksStorage = BlocksSharedStorage<kTokens, kRows,
                                          FittingStages<BlocksSharedStorage<kTokens, kRows, 1>,
                                                        BlocksSharedStorage<kTokens, kRows, 2>>()>;

// All threads of the block, before they take tiles.
template <int kTokens>
__device__ __forceinline__ void CountTiles(const Blocks& blocks, CountTable& table) {
  if (blocks.labels != nullptr) {
    __syncthreads();
    return;
  }
  FillTable<kTokens>(blocks.experts, table, [&](int expert) {
    const int32_t count = blocks.counts != nullptr ? blocks.counts[expert] : blocks.rows;
    return RowsOfExpert{0, min(max(count, 0), blocks.rows)};
  });
}

// Tiles of this block, one after the other, for a whole warp; kSplit blocks have the same ones.
template <int kTokens, int kRows, int kSplit = 1>
class Works {
 public:
  // The table is filled, where there are no labels.
  __device__ __forceinline__ Works(const Blocks& blocks, const CountTable& table)
      : b_(blocks),
        table_(table),
        lane_(static_cast<int>(threadIdx.x) % 32),
        columns_((b_.n + kRows - 1) / kRows),
        tiles_(b_.labels != nullptr ? (b_.rows + kTokens - 1) / kTokens : table.before[b_.experts]),
        index_(static_cast<int32_t>(blockIdx.x) / kSplit) {
    LoadLabels();
  }

  // Whether there is one more; it has a token at least.
  __device__ __forceinline__ bool Next(TileOfWork& tile) {
    while (index_ < tiles_ * columns_) {
      if (b_.labels == nullptr) {
        tile = FindTile<kTokens, kRows>(b_.experts, table_, columns_, index_);
        Advance();
        return true;
      }
      tile = {__shfl_sync(0xffffffffu, labels_[0], 0), place_.member * kTokens, 0,
              place_.column * kRows};
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        const uint32_t used = __ballot_sync(0xffffffffu, labels_[i] >= 0);
        if (used != 0) tile.count = 32 * i + 32 - __clz(static_cast<int>(used));
      }
      Advance();
      LoadLabels();
      if (tile.expert >= 0 && tile.expert < b_.experts) return true;
    }
    return false;
  }

 private:
  static constexpr int kWords = (kTokens + 31) / 32;

  __device__ __forceinline__ void Advance() { index_ += static_cast<int32_t>(gridDim.x) / kSplit; }

  // Those of the tile to come, so that nobody waits for them when it begins.
  __device__ __forceinline__ void LoadLabels() {
    if (b_.labels == nullptr || index_ >= tiles_ * columns_) return;
    place_ = PlaceInGroups<kTokens>(index_, tiles_, columns_);
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const int token = 32 * i + lane_;
      const int32_t row = place_.member * kTokens + token;
      labels_[i] = token < kTokens && row < b_.rows ? __ldg(b_.labels + row) : -1;
    }
  }

  const Blocks& b_;
  const CountTable& table_;
  const int lane_;
  const int32_t columns_, tiles_;
  int32_t index_;
  PlaceOfTile place_ = {};
  int32_t labels_[kWords] = {};
};

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_WORKS_CUH_
