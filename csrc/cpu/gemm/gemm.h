#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_H_

#include "core/abi.h"

namespace vk {

struct GemmTable {
  int placeholder;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_H_
