// What the host tells the kernel of small_m/kernel.cuh, and the shapes of its blocks.
#ifndef VLLM_KERNELS_CUDA_WNA16_SMALL_M_PARAMS_H_
#define VLLM_KERNELS_CUDA_WNA16_SMALL_M_PARAMS_H_

#include <cstdint>

#include "cuda/wna16/layout.h"
#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

inline constexpr int kSmallMMaxStages = 16;

// A block: kPackedTiles x 64 columns of c, for up to kTokenTiles x 8 tokens. Eight warps multiply,
// each 64 columns and 64 of K at a step; one more warp loads. Two blocks fit a multiprocessor.
template <int kTokenTiles_, int kPackedTiles_>
struct SmallMShape {
  static constexpr int kTokenTiles = kTokenTiles_;
  static constexpr int kPackedTiles = kPackedTiles_;
  static constexpr int kMmaTiles = 4;  // of 16 columns, of a warp
  static constexpr int kWarpsN = kPackedTiles * 4 / kMmaTiles;
  static constexpr int kWarpsK = 8 / kPackedTiles;
  static constexpr int kWarps = kWarpsN * kWarpsK;
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kThreads = kLanes * (kWarps + 1);
  // Sums of one warp, 16 bytes a lane; and of the block's tile.
  static constexpr int kFragments = kMmaTiles * kTokenTiles;
  static constexpr int kAllFragments = kWarpsN * kFragments;
  // Shared memory behind the stages: the sums that blocks of a cluster send, and the barriers.
  static constexpr int kClusterSumBytes = kAllFragments * kLanes * 16;
  static constexpr int kRestBytes = kClusterSumBytes + 2 * 8 * kSmallMMaxStages;
};

// Bytes of shared memory of one stage, and where its parts start. `m`: tokens that there are.
template <class S, WeightType kType>
struct SmallMStage {
  static constexpr int kChunk = PackedTileWords(Bits(kType)) * 4 * 4;  // 64 columns x 64 of K
  static constexpr int kWeights = S::kPackedTiles * S::kWarpsK * kChunk;
  static constexpr int kScaleRow = S::kPackedTiles * kPackedTileN * 2;
  static constexpr int kScales = S::kWarpsK * kScaleRow;
  static constexpr int kZeroRow = kType == WeightType::kU4 ? S::kPackedTiles * kPackedTileN / 2 : 0;
  static constexpr int kZeros = S::kWarpsK * kZeroRow;
  // Tokens lie chunk by chunk, row by row, in the 128-byte swizzle of bulk tensor copies.
  static constexpr int kTokensAt = (kWeights + kScales + kZeros + 1023) / 1024 * 1024;
  static constexpr int kTokenBytes = S::kWarpsK * 128;
};

struct SmallMParams {
  const void* a;          // the row of tokens, where m is 1
  const void* weights;    // packed tiles, layout.h
  const void* scales;     // [groups, n], permuted by the engine
  const uint32_t* zeros;  // [groups, n / 8]
  const void* bias;       // [n], permuted by the engine, or null
  void* c;                // [m, n]
  int m, n, k;
  uint64_t group_magic;  // GroupMagic of the group
  int per_channel;
  int chunks;       // of 64 of K that each block of a cluster takes
  int stages;       // of the pipeline
  int last_steps;   // when so many are left to load, the next kernel may start
  int stage_bytes;  // of shared memory
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_SMALL_M_PARAMS_H_
