#ifndef VLLM_KERNELS_CPU_ROPE_ROPE_H_
#define VLLM_KERNELS_CPU_ROPE_ROPE_H_

#include "core/abi.h"

namespace vk {

struct RopeTable {
  int placeholder;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ROPE_ROPE_H_
