// Sums over the ranks of a group, the arithmetic of shared_memory.h's collectives.
#ifndef VLLM_KERNELS_CPU_ALL_REDUCE_ALL_REDUCE_H_
#define VLLM_KERNELS_CPU_ALL_REDUCE_ALL_REDUCE_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// out[i] = parts[0, i] + parts[1, i] + ..., added in that order in float32 and rounded once. What
// vk_cpu_shm_allreduce gives every rank, for parts that lie in one process.
//   parts: [at most 64 ranks, width], float32 | bfloat16 | float16, last dimension contiguous
//   out: [width], the parts' dtype, contiguous
VK_EXPORT vk_status vk_cpu_rank_sum(const vk_tensor* out, const vk_tensor* parts);

}  // extern "C"

namespace vk {

// out[0 .. count) = the sum of the parts; `out` may be one of them. The index is vk_dtype (float32,
// bfloat16, float16).
struct AllReduceTable {
  void (*sum[3])(void* out, const void* const* parts, size_t ranks, size_t count);
};

// The same, spread over threads.
void SumParts(int32_t dtype, void* out, const void* const* parts, int64_t ranks, int64_t count);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ALL_REDUCE_ALL_REDUCE_H_
