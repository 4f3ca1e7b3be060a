// Runs an attention plan on the threads.
#ifndef VLLM_KERNELS_CPU_ATTENTION_RUN_H_
#define VLLM_KERNELS_CPU_ATTENTION_RUN_H_

#include <cstdint>
#include <vector>

#include "cpu/attention/attention.h"
#include "cpu/attention/plan.h"

namespace vk {

// Checked arguments only. Throws std::bad_alloc where there is no room for the scratch.
void RunAttention(const AttentionProblem& problem, const AttentionTable& table,
                  const std::vector<AttentionRequest>& requests, int32_t kv_heads, int32_t dtype);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ATTENTION_RUN_H_
