// The instance for a dtype, cache and head size.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_SELECT_H_
#define VLLM_KERNELS_CUDA_ATTENTION_SELECT_H_

#include "cuda/attention/launch.h"

namespace vk::cuda::attention {

// `dtype`: VK_BF16 or VK_F16; the smallest instance for heads of up to `head_size` <= 256.
// `fast`: rows are whole vectors, and pages hold multiples of 16 keys.
const Instance& SelectInstance(int32_t dtype, bool fp8, int32_t head_size, bool fast);

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_SELECT_H_
