// What the ops of attention refuse alike.
#ifndef VLLM_KERNELS_CPU_ATTENTION_CHECKS_H_
#define VLLM_KERNELS_CPU_ATTENTION_CHECKS_H_

#include <cstdint>
#include <vector>

#include "core/check.h"
#include "cpu/attention/plan.h"

namespace vk {

// The kernels count tokens and rows in 32 bits, and step over the last key by less than this room.
constexpr int32_t kMaxAttentionKeys = INT32_MAX - 65536, kMaxAttentionGroup = 65536;

// How the op calls itself and its arguments.
struct AttentionNames {
  const char* op;
  const char* cache;
  const char* table;
};

void CheckHeadSize(const char* op, int64_t head_size);
void CheckSizes(const AttentionNames& names, int64_t head_size, int64_t block_size);

// That the blocks which hold the visible keys of request `index` are there.
void CheckBlocks(const AttentionNames& names, int64_t index, const AttentionRequest& request,
                 const AttentionProblem& problem, int64_t pages, int64_t blocks);

// A value for each head of `query` as float32, or null for a null tensor; `storage` holds them
// where they have to be converted.
const float* PerHead(const char* op, const char* name, const vk_tensor* tensor, const Arg& query,
                     std::vector<float>& storage);

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ATTENTION_CHECKS_H_
