// What a block of Marlin's kernel works on.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_SCHEDULE_CUH_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_SCHEDULE_CUH_

#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

// Stream-K: each block takes `block_steps` consecutive steps of all tiles. With kExperts, tiles of
// tokens are by expert, and only the device knows how many there are.
template <class S, bool kExperts>
class MarlinSchedule {
 public:
  __device__ __forceinline__ explicit MarlinSchedule(const MarlinParams& params)
      : m_tiles(params.m_tiles), block_steps(params.block_steps), p_(params) {
    int steps = params.steps;
    if constexpr (kExperts) {
      m_tiles = *params.experts.padded / params.experts.block;
      steps = m_tiles * params.n_tiles * params.k_steps;
      block_steps = (steps + static_cast<int>(gridDim.x) - 1) / static_cast<int>(gridDim.x);
    }
    begin = static_cast<int>(blockIdx.x) * block_steps;
    end = min(begin + block_steps, steps);
  }

  // Row of c that place `token` of a tile is for, or -1.
  __device__ __forceinline__ int OutputRow(int m_tile, int token) const {
    if constexpr (!kExperts) {
      const int row = m_tile * S::kTokens + token;
      return row < p_.m ? row : -1;
    } else {
      if (token >= p_.experts.block || m_tile >= m_tiles) return -1;
      const int row = p_.experts.sorted[m_tile * p_.experts.block + token];
      return row >= 0 && row < p_.experts.rows ? row : -1;
    }
  }

  template <class Element>
  __device__ __forceinline__ const Element* Scales(int expert) const {
    const auto* const scales = static_cast<const Element*>(p_.scales);
    return kExperts ? scales + expert * p_.experts.scale_elements : scales;
  }
  __device__ __forceinline__ const uint32_t* Zeros(int expert) const {
    return kExperts ? p_.zeros + expert * p_.experts.zero_words : p_.zeros;
  }

  int m_tiles, block_steps;
  int begin, end;  // steps of this block

 private:
  const MarlinParams& p_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_SCHEDULE_CUH_
