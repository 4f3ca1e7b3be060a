// Where the process's memory lies.
#ifndef VLLM_KERNELS_CPU_RUNTIME_RUNTIME_H_
#define VLLM_KERNELS_CPU_RUNTIME_RUNTIME_H_

#include "core/abi.h"

extern "C" {

// Binds memory that this thread, and threads it starts later, touch from now on to NUMA nodes
// (set_mempolicy(2), MPOL_BIND); pages that the process already has stay. `count` 0 changes
// nothing. Where the kernel has no NUMA support or the container forbids the call, nothing happens
// either: placement changes no result. VK_INVALID_ARGUMENT for a negative number or a node that
// does not exist.
VK_EXPORT vk_status vk_cpu_bind_memory(const int64_t* node_ids, int64_t count);

}  // extern "C"
#endif  // VLLM_KERNELS_CPU_RUNTIME_RUNTIME_H_
