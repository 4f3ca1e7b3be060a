// Cuts an attention call into tasks of like cost for the threads.
#ifndef VLLM_KERNELS_CPU_ATTENTION_PLAN_H_
#define VLLM_KERNELS_CPU_ATTENTION_PLAN_H_

#include <cstdint>
#include <vector>

#include "cpu/attention/attention.h"

namespace vk {

// One request of a checked call.
struct AttentionRequest {
  const int32_t* blocks;
  int64_t first_token;
  int32_t tokens;
  int32_t seq_len;
  bool causal;
};

struct AttentionPlan {
  std::vector<AttentionTask> tasks;  // costly ones first
  std::vector<int32_t> group_first;  // per split group: its first slot of partial results
  std::vector<int32_t> group_size;   // and how many
  int32_t partials = 0;              // slots in all
  int32_t max_rows = 0;              // of any task
  int threads = 1;                   // that the work is worth
};

// Keys that some of the query positions [first, last] see.
struct KeyRange {
  int32_t begin, end;
};
KeyRange VisibleKeys(const AttentionRequest& request, int32_t first, int32_t last, int32_t window);

AttentionPlan MakePlan(const AttentionProblem& problem, const AttentionTable& table,
                       const std::vector<AttentionRequest>& requests, int32_t kv_heads,
                       int max_threads);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ATTENTION_PLAN_H_
