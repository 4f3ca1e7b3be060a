#ifndef VLLM_KERNELS_CPU_ACTIVATION_ACTIVATION_H_
#define VLLM_KERNELS_CPU_ACTIVATION_ACTIVATION_H_

#include "core/abi.h"

namespace vk {

struct ActivationTable {
  int placeholder;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ACTIVATION_ACTIVATION_H_
