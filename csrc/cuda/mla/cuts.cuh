// The units of CutKernel: an entry's pairs of stages of keys.
#ifndef VLLM_KERNELS_CUDA_MLA_CUTS_CUH_
#define VLLM_KERNELS_CUDA_MLA_CUTS_CUH_

#include <cstdint>

#include "cuda/common/cuts.cuh"
#include "cuda/mla/works.cuh"

namespace vk::cuda::mla {

struct PairsOf {
  const int32_t* lengths;
  int32_t most_keys;

  __device__ __forceinline__ int32_t operator()(int32_t entry) const {
    return Pairs(max(0, min(most_keys, lengths[entry])));
  }
};

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_CUTS_CUH_
