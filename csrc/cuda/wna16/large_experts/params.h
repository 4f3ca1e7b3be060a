// What the host tells the kernel of large_experts/kernel.cuh, and its shared memory.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_PARAMS_H_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_PARAMS_H_

#include "cuda/wna16/large_m/params.h"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

// Blocks of 256 columns whose weights are exact.
template <int kTokens>
using LargeExpertsShape = LargeMShape<kTokens, 2, true>;

struct LargeExpertsParams : LargeMParams {  // m: rows of a; c: [experts.rows, n]
  MarlinExpertParams experts;
  int n_tiles;
};

// Shared memory behind the stages: what the tile before leaves is written while the next one's
// weights arrive.
template <class S>
struct LargeExpertsSharedStorage {
  static constexpr int kPitch = S::kColumns * 2 + 16;
  uint64_t barriers[2 * kLargeMMaxStages];  // of sm90::Pipeline
  int32_t row[S::kTokens];                  // of c, or -1
  float factor[S::kTokens];
  alignas(16) unsigned char rows[S::kTokens * kPitch];
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_PARAMS_H_
