// What the host tells the kernel of marlin/kernel.cuh, and the shapes of its blocks.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_PARAMS_H_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_PARAMS_H_

#include <cstdint>

#include "cuda/wna16/layout.h"
#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

// A thread block: kWarpsN warps side by side along the columns, kWarpsK such rows of warps along K.
// Each warp takes 64 of K per step, for kMmaTiles x 16 columns and kTokenTiles x 8 tokens.
template <int kTokenTiles_, int kWarpsN_, int kWarpsK_>
struct MarlinShape {
  static constexpr int kTokenTiles = kTokenTiles_;
  static constexpr int kWarpsN = kWarpsN_;
  static constexpr int kWarpsK = kWarpsK_;
  // The sums of a warp, one set per group and one in total, must fit its registers.
  static constexpr int kMmaTiles = kTokenTiles > 4 ? 2 : 4;
  static constexpr int kFragments = kMmaTiles * kTokenTiles;  // of a warp's sums
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kN = kWarpsN * kMmaTiles * 16;
  static constexpr int kK = 64 * kWarpsK;
  static constexpr int kThreads = kLanes * kWarpsN * kWarpsK;
  // That the registers must suffice for.
  static constexpr int kBlocksPerSm = kTokenTiles <= 2 ? 2 : 1;
};

// Rows of scales in a stage for each 64 of K: groups of integers and FP8 may be as short as 32.
VK_HOST_DEVICE constexpr int MarlinScaleRows(WeightType type) {
  return IsFp4(type) ? ScaleRows(type) : 2;
}

// One stage of the pipeline in shared memory.
template <class S, WeightType kType>
struct MarlinStageBase {
  PackedTile<Bits(kType)> weights[S::kN / kPackedTileN][S::kWarpsK][64 / kPackedTileK];
  uint16_t tokens[S::kWarpsK][S::kTokens][64];
  ScaleElement<kType> scales[MarlinScaleRows(kType) * S::kWarpsK][S::kN];
};
template <class S, WeightType kType>
struct MarlinStage : WithZeroPoints<MarlinStageBase<S, kType>, kType, 2 * S::kWarpsK, S::kN> {};

// Shared memory behind the stages: the warps' sums on their way to the warp that adds them up. The
// output passes there too, as does the number of blocks that have handed in their sums.
template <class S>
struct MarlinSums {
  alignas(
      16) float warps[S::kWarpsK > 1 ? S::kWarpsK - 1 : 1][S::kWarpsN][S::kFragments][kLanes][4];
};

// Of a grouped GEMM (mixture of experts): tiles of tokens belong to one expert each, and
// their rows are gathered. Strides are from one expert's weights to the next one's.
struct MarlinExpertParams {
  const int32_t* sorted;        // [padded]: row of c for each place; from `rows` on: none
  const int32_t* experts;       // [padded / block]: of each tile; negative: nothing to do
  const int32_t* padded;        // places in use, on the device
  const float* router_weights;  // [rows]: factor of each row of c, or null
  int64_t weight_bytes, scale_elements, zero_words, bias_elements;
  int block;  // places in a tile
  int top_k;  // row r of c is the product of row r / top_k of a
  int rows;   // of c
};

struct MarlinParams {
  const void* a;              // [m, k], rows lda elements apart
  const void* weights;        // packed tiles, layout.h
  const void* scales;         // [groups, n] of ScaleElement, permuted by the engine
  const uint32_t* zeros;      // [groups, n / 8], 4-bit types with zero points only
  const float* global_scale;  // of the matrix, or of each expert's: NVFP4 only
  const void* bias;           // [n], permuted by the engine, or null
  void* c;                    // [m, n]
  float* partials;            // sums of tiles that several blocks share, two slots a block
  int32_t* locks;             // zeros before and after the launch
  int64_t lda;
  int m, n, k;
  int group;  // elements of K that share a scale; k: one scale per channel
  // Groups of 64 of K (32 where `group` is) times this, over 2^32, is the group.
  uint64_t group_magic;
  int per_channel;  // scales are per channel, in that permutation
  int m_tiles;      // tiles of tokens, fastest; then tiles of columns
  int n_tiles;
  int k_steps;         // steps of MarlinShape::kK in a tile
  int steps;           // in all tiles
  int block_steps;     // each block takes so many consecutive ones
  int lock_by_tile;    // locks are per tile, not per block that starts one
  int stages;          // of the pipeline, 2..kMarlinMaxStages
  int prefetch_steps;  // whose weights are prefetched to L2 before griddepcontrol_wait()
  MarlinExpertParams experts;
};

inline constexpr int kMarlinMaxStages = 8;

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_PARAMS_H_
