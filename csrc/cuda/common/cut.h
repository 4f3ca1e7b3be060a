// A division of the work of many entries (the requests of a batch) into parts of equal cost.
#ifndef VLLM_KERNELS_CUDA_COMMON_CUT_H_
#define VLLM_KERNELS_CUDA_COMMON_CUT_H_

#include <cstdint>

namespace vk::cuda {

// Where a part begins: at a unit of an entry's work. Part i ends where part i + 1 begins.
struct Cut {
  int32_t entry, unit;
};

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_CUT_H_
