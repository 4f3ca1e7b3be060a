// Division that rounds up.
#ifndef VLLM_KERNELS_CUDA_COMMON_DIVIDE_H_
#define VLLM_KERNELS_CUDA_COMMON_DIVIDE_H_

#include <cstdint>

namespace vk::cuda {

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The first multiple of `multiple` from `value` on.
constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return CeilDiv(value, multiple) * multiple;
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_DIVIDE_H_
