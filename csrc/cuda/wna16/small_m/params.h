// What the host tells the kernel of small_m/kernel.cuh, and the shapes of its blocks.
#ifndef VLLM_KERNELS_CUDA_WNA16_SMALL_M_PARAMS_H_
#define VLLM_KERNELS_CUDA_WNA16_SMALL_M_PARAMS_H_

#include <cstdint>

#include "cuda/wna16/layout.h"
#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

inline constexpr int kSmallMMaxStages = 16;

// A block: kPackedTiles x 64 columns of c, for up to kTokenTiles x 8 tokens. Eight warps multiply,
// each 64 columns and 64 of K at a step; one more warp loads. Two blocks fit an SM.
template <int kTokenTiles_, int kPackedTiles_>
struct SmallMShape {
  static constexpr int kTokenTiles = kTokenTiles_;
  static constexpr int kPackedTiles = kPackedTiles_;
  static constexpr int kColumns = kPackedTiles * kPackedTileN;
  static constexpr int kMmaTiles = 4;  // of 16 columns, of a warp: a packed tile
  static constexpr int kWarpsN = kPackedTiles;
  static constexpr int kWarpsK = 8 / kPackedTiles;
  static constexpr int kWarps = kWarpsN * kWarpsK;
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kThreads = kLanes * (kWarps + 1);
  // Sums of one warp, 16 bytes a lane; and of the block's tile.
  static constexpr int kFragments = kMmaTiles * kTokenTiles;
  static constexpr int kAllFragments = kWarpsN * kFragments;
};

// One stage of the pipeline in shared memory, without tokens: as many as there are follow it, chunk
// of K by chunk, row by row, in the 128-byte swizzle of bulk tensor copies.
template <class S, WeightType kType>
struct SmallMStageBase {
  PackedTile<Bits(kType)> weights[S::kPackedTiles][S::kWarpsK][64 / kPackedTileK];
  ScaleElement<kType> scales[S::kWarpsK * ScaleRows(kType)][S::kColumns];
};
template <class S, WeightType kType>
struct alignas(1024) SmallMStage
    : WithZeroPoints<SmallMStageBase<S, kType>, kType, S::kWarpsK, S::kColumns> {};

// Shared memory behind the stages.
template <class S>
struct SmallMSharedStorage {
  alignas(16) float cluster_sums[S::kAllFragments][kLanes][4];  // that its blocks send
  uint64_t barriers[2 * kSmallMMaxStages];                      // of sm90::Pipeline
};

struct SmallMParams {
  const void* a;              // the row of tokens, where m is 1
  const void* weights;        // packed tiles, layout.h
  const void* scales;         // [groups, n] of ScaleElement, permuted by the engine
  const uint32_t* zeros;      // [groups, n / 8]
  const float* global_scale;  // of the matrix: NVFP4 only
  const void* bias;           // [n], permuted by the engine, or null
  void* c;                    // [m, n]
  int m, n, k;
  uint64_t group_magic;  // GroupMagic of the group
  int per_channel;
  int chunks;       // of 64 of K that each block of a cluster takes
  int stages;       // of the pipeline
  int last_steps;   // when so many are left to load, dependents are launched
  int stage_bytes;  // of shared memory
};

struct SmallMScaledParams : SmallMParams {
  const float *token_scales, *channel_scales;  // [m], [n]
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_SMALL_M_PARAMS_H_
