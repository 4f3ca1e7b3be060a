// What the host tells the kernel of large_m/kernel.cuh, and the shape of its blocks.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_PARAMS_H_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_PARAMS_H_

#include <cstdint>

#include "cuda/wna16/layout.h"
#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

// A block: 128 * kMmaTiles columns of c for kTokens tokens. Two warpgroups multiply, each of whose
// warps takes kMmaTiles times 16 columns, and 64 of K at a step; of a third, one warp loads.
template <int kTokens_, int kMmaTiles_, bool kExact_>
struct LargeMShape {
  static constexpr int kTokens = kTokens_;
  static constexpr int kMmaTiles = kMmaTiles_;
  static constexpr int kPackedTiles = 2 * kMmaTiles;
  static constexpr int kColumns = kPackedTiles * kPackedTileN;
  static constexpr int kThreads = 128 + 2 * 128;  // the producer's warpgroup, two that multiply
  static constexpr int kSums = kTokens / 2;       // of a tile, in float32
  // Sums per group beside those in total, which get the group's scale in float32: weights then are
  // exact. Else these are scaled, and rounded, before they are multiplied, which takes fewer
  // registers.
  static constexpr bool kExact = kExact_;
};

// How a block meets the scales: FP4's are exact in the 16-bit type anyway.
template <class S, WeightType kType>
struct LargeMScaling {
  static constexpr bool kSums = S::kExact && !IsFp4(kType);     // of each group, scaled in float32
  static constexpr bool kRounds = !S::kExact && !IsFp4(kType);  // weights are scaled, and rounded
};

// One stage of the pipeline in shared memory. Tokens come first, in the 128-byte swizzle of bulk
// tensor copies.
template <class S, WeightType kType>
struct LargeMStageBase {
  uint16_t tokens[S::kTokens][64];
  PackedTile<Bits(kType)> weights[S::kPackedTiles][64 / kPackedTileK];
  ScaleElement<kType> scales[ScaleRows(kType)][S::kColumns];
};
template <class S, WeightType kType>
struct alignas(1024) LargeMStage
    : WithZeroPoints<LargeMStageBase<S, kType>, kType, 1, S::kColumns> {};

struct LargeMParams {
  const void* weights;        // packed tiles, layout.h
  const void* scales;         // [groups, n] of ScaleElement, permuted by the engine
  const uint32_t* zeros;      // [groups, n / 8]
  const float* global_scale;  // of the matrix, or of each expert's: NVFP4 only
  const void* bias;           // [n], permuted by the engine, or null
  void* c;                    // [m, n]
  int m, n, k;
  uint64_t group_magic;  // GroupMagic of the group
  int per_channel;
  int even_groups;  // whether the chunks of 64 of K number 2 i and 2 i + 1 have one group
  int first_tile;   // of the launch
  int chunks;       // of 64 of K that each block of a cluster takes
  int stages;
};

// LargeMParams::even_groups.
constexpr bool HasEvenGroups(int group, bool per_channel) {
  return per_channel || group % 128 == 0;
}

inline constexpr int kLargeMMaxStages = 12;

// Shared memory behind the stages.
struct LargeMSharedStorage {
  uint64_t barriers[2 * kLargeMMaxStages];  // of sm90::Pipeline
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_PARAMS_H_
