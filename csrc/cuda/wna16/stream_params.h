// What the host tells the kernel of stream_kernel.cuh, and the shapes of its blocks.
#ifndef VLLM_KERNELS_CUDA_WNA16_STREAM_PARAMS_H_
#define VLLM_KERNELS_CUDA_WNA16_STREAM_PARAMS_H_

#include <cstdint>

#include "cuda/wna16/layout.h"
#include "cuda/wna16/weight_type.h"

namespace vk::wna16 {

inline constexpr int kMaxStreamStages = 16;

// A block: kUnits x 64 columns of c, for up to kTokenTiles x 8 tokens. Eight warps multiply, each
// 64 columns and 64 of K at a step; one more warp loads. Two blocks fit a multiprocessor.
template <int kTokenTiles_, int kUnits_>
struct StreamShape {
  static constexpr int kTokenTiles = kTokenTiles_;
  static constexpr int kUnits = kUnits_;
  static constexpr int kTiles = 4;  // of 16 columns, of a warp
  static constexpr int kWarpsN = kUnits * 4 / kTiles;
  static constexpr int kWarpsK = 8 / kUnits;
  static constexpr int kWarps = kWarpsN * kWarpsK;
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kThreads = kLanes * (kWarps + 1);
  // Sums of one warp, 16 bytes a lane; and of the block's tile.
  static constexpr int kFragments = kTiles * kTokenTiles;
  static constexpr int kAllFragments = kWarpsN * kFragments;
  // Shared memory behind the stages: the sums that blocks of a cluster send, and the barriers.
  static constexpr int kReceivedBytes = kAllFragments * kLanes * 16;
  static constexpr int kRestBytes = kReceivedBytes + 2 * 8 * kMaxStreamStages;
};

// Bytes of shared memory of one stage, and where its parts start. `m`: tokens that there are.
template <class S, WeightType kType>
struct StreamStage {
  static constexpr int kChunk = UnitWords(Bits(kType)) * 4 * 4;  // 64 columns x 64 of K
  static constexpr int kWeights = S::kUnits * S::kWarpsK * kChunk;
  static constexpr int kScaleRow = S::kUnits * kUnitN * 2;
  static constexpr int kScales = S::kWarpsK * kScaleRow;
  static constexpr int kZeroRow = kType == WeightType::kU4 ? S::kUnits * kUnitN / 2 : 0;
  static constexpr int kZeros = S::kWarpsK * kZeroRow;
  // Tokens lie chunk by chunk, row by row, in the 128-byte swizzle of bulk tensor copies.
  static constexpr int kTokensAt = (kWeights + kScales + kZeros + 1023) / 1024 * 1024;
  static constexpr int kTokenBytes = S::kWarpsK * 128;
};

struct StreamParams {
  const void* a;          // the row of tokens, where m is 1
  const void* weights;    // units, layout.h
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

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_STREAM_PARAMS_H_
