#ifndef VLLM_KERNELS_CPU_ATTENTION_ATTENTION_H_
#define VLLM_KERNELS_CPU_ATTENTION_ATTENTION_H_

#include "core/abi.h"

namespace vk {

struct AttentionTable {
  int placeholder;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ATTENTION_ATTENTION_H_
