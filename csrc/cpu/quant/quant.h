#ifndef VLLM_KERNELS_CPU_QUANT_QUANT_H_
#define VLLM_KERNELS_CPU_QUANT_QUANT_H_

#include "core/abi.h"

namespace vk {

struct QuantTable {
  int placeholder;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_QUANT_QUANT_H_
