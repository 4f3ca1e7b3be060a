#ifndef VLLM_KERNELS_CPU_CACHE_CACHE_H_
#define VLLM_KERNELS_CPU_CACHE_CACHE_H_

#include "core/abi.h"

namespace vk {

struct CacheTable {
  int placeholder;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_CACHE_CACHE_H_
