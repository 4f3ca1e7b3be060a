// What a block of the large-M kernel computes.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_TILE_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_TILE_CUH_

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/wna16/large_m/params.h"

namespace vk::cuda::wna16 {

// A tile of c, of which the blocks of a cluster each take a share of K. Neighbouring blocks share
// tokens: weights are read from memory once, tokens from L2.
template <class S>
struct LargeMTile {
  __device__ __forceinline__ explicit LargeMTile(const LargeMParams& p)
      : cluster(ptx::cluster_nctarank()), rank(ptx::cluster_ctarank()) {
    const int m_tiles = (p.m + S::kTokens - 1) / S::kTokens;
    const int tile = p.first_tile + static_cast<int>(blockIdx.x) / cluster;
    token0 = tile % m_tiles * S::kTokens;
    packed_tile0 = tile / m_tiles * S::kPackedTiles;
    packed_tiles = min(S::kPackedTiles, p.n / kPackedTileN - packed_tile0);
    begin = rank * p.chunks;
    chunks = max(min(p.chunks, p.k / 64 - begin), 0);
  }

  const int cluster, rank;
  int token0;
  int packed_tile0, packed_tiles;  // columns
  int begin, chunks;               // of K
};

// A thread's place in the two warpgroups that multiply.
template <class S>
struct LargeMConsumer {
  __device__ __forceinline__ LargeMConsumer()
      : thread(static_cast<int>(threadIdx.x) - 128), lane(static_cast<int>(threadIdx.x) % kLanes) {
    const int warp = static_cast<int>(threadIdx.x) / kLanes % 4;
    const int group = static_cast<int>(threadIdx.x) / 128 - 1;
    constexpr int kPackedTileWarps = 4 / S::kMmaTiles;
    packed_tile = S::kMmaTiles * group + warp / kPackedTileWarps;
    first_mma_tile = warp % kPackedTileWarps * S::kMmaTiles;
  }

  static __device__ __forceinline__ void SyncConsumers() {
    enum class NamedBarrier : int { kConsumers = 1 };
    ptx::named_barrier_sync(static_cast<int>(NamedBarrier::kConsumers), 256);
  }

  const int thread, lane;
  int packed_tile;     // of the block's
  int first_mma_tile;  // in it
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_TILE_CUH_
