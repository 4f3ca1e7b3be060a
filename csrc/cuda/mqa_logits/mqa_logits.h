// Logits of the indexer that selects keys for sparse attention (DeepSeek-V3.2,
// https://arxiv.org/abs/2512.02556): all heads of a query share one key,
//   logit(row, key) = scale(key) * sum_h weights[row, h] * max(query[row, h] . key, 0)
// Tensors are on the current GPU; work is enqueued on `stream` (a cudaStream_t), nothing is
// allocated or waited for. Products are those of the tensor cores (float8 to float32), sums are
// float32.
//   logits: [rows, columns], float32, last dimension contiguous
//   query: [rows, heads, 128], float8 e4m3, rows aligned to 16 bytes; 32 or 64 heads
//   weights: [rows, heads], float32, rows aligned to 16 bytes
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_MQA_LOGITS_H_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_MQA_LOGITS_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// Of each row the logits of the keys starts[row] to ends[row] - 1; others stay as they are.
//   keys: [n, 128], float8 e4m3, rows aligned to 16 bytes
//   key_scales: [n], float32, contiguous
//   starts, ends: [rows], int32, contiguous
//   from_start: a row's first key is in column 0; else key i is in column i. Keys beyond the last
//     column are left out
//   blocks: at most so many blocks run at once; 0: one a multiprocessor
VK_EXPORT vk_status vk_cuda_mqa_logits(const vk_tensor* logits, const vk_tensor* query,
                                       const vk_tensor* keys, const vk_tensor* key_scales,
                                       const vk_tensor* weights, const vk_tensor* starts,
                                       const vk_tensor* ends, bool from_start, int64_t blocks,
                                       void* stream);

// Of each row, which is one of the `queries` of its batch entry, the logits of the entry's first
// context_lens[entry, query] keys.
//   logits, query, weights: rows = batch * queries
//   cache: [pages, slots, 132], uint8, each page contiguous and aligned to 16 bytes: float8 e4m3
//     keys of all slots, then float32 scales of all slots. 8, 16, 32 or 64 slots
//   context_lens: [batch, queries], or [batch, 1] for all queries, int32
//   block_table: [batch, any], int32: pages of an entry, in their order. Logits of a page that is
//     not there are any numbers
//   schedule: [parts + 1, 2], int32, contiguous, of vk_cuda_paged_mqa_logits_schedule()
VK_EXPORT vk_status vk_cuda_paged_mqa_logits(const vk_tensor* logits, const vk_tensor* query,
                                             const vk_tensor* cache, const vk_tensor* weights,
                                             const vk_tensor* context_lens,
                                             const vk_tensor* block_table,
                                             const vk_tensor* schedule, void* stream);

// How the keys of a batch are divided into as many parts as `schedule` has rows, less one.
VK_EXPORT vk_status vk_cuda_paged_mqa_logits_schedule(const vk_tensor* schedule,
                                                      const vk_tensor* context_lens, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_MQA_LOGITS_H_
