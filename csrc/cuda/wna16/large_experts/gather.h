#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_GATHER_H_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_GATHER_H_

#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

// out[place] = the row of `a` that `place`, one of `places`, is for; places without a row keep what
// they hold. Rows are `k` 16-bit elements, a multiple of 8, 16-byte aligned; those of out
// contiguous.
void GatherTokens(const char* op, void* out, const Activations& a,
                  const MarlinExpertParams& experts, int64_t places, int k, cudaStream_t stream);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_GATHER_H_
