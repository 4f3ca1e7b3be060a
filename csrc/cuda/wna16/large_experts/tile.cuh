// What a block of the kernel for experts computes at a time.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_TILE_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_TILE_CUH_

#include "cuda/wna16/large_experts/params.h"

namespace vk::cuda::wna16 {

// Tiles of tokens that are worked on together, for all columns before the next ones: their tokens
// then stay in L2, and an expert's weights are read from memory once for so many tiles of its own.
inline constexpr int kLargeExpertsGroup = 16;

// Neighbouring tiles have the same columns.
template <class S>
struct LargeExpertsTile {
  __device__ __forceinline__ LargeExpertsTile(const LargeExpertsParams& p, int tile, int m_tiles) {
    const int first = tile / (kLargeExpertsGroup * p.n_tiles) * kLargeExpertsGroup;
    const int height = min(kLargeExpertsGroup, m_tiles - first);
    const int local = tile - first * p.n_tiles;
    m_tile = first + local % height;
    packed_tile0 = local / height * S::kPackedTiles;
    packed_tiles = min(S::kPackedTiles, p.n / kPackedTileN - packed_tile0);
    expert = p.experts.experts[m_tile];
  }

  // Row of c that place `token` is for, or -1.
  __device__ __forceinline__ int Row(const LargeExpertsParams& p, int token) const {
    if (token >= p.experts.block) return -1;
    const int row = p.experts.sorted[m_tile * p.experts.block + token];
    return row >= 0 && row < p.experts.rows ? row : -1;
  }

  int m_tile;
  int packed_tile0, packed_tiles;  // columns
  int expert;                      // negative: another GPU's
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_TILE_CUH_
