// The units of CutKernel: an entry's tiles of keys.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_CUTS_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_CUTS_CUH_

#include <cstdint>

#include "cuda/common/cuts.cuh"
#include "cuda/mqa_logits/problem.h"

namespace vk::cuda::mqa_logits {

struct TilesOf {
  ContextLengths lengths;

  __device__ __forceinline__ int32_t operator()(int32_t entry) const {
    int32_t keys = 0;
    for (int32_t i = 0; i < lengths.count; ++i) {
      keys = max(keys, lengths.data[entry * lengths.entry_stride + i * lengths.query_stride]);
    }
    return static_cast<int32_t>((int64_t{keys} + kKeys - 1) / kKeys);
  }
};

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_CUTS_CUH_
