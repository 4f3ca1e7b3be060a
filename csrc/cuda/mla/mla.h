// Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434) in its absorbed form:
// all heads share one key of 576 columns, whose first 512 are the value. Tensors are on the current
// GPU; work is enqueued on `stream` (a cudaStream_t), nothing is allocated or waited for.
//   workspace: uint8, contiguous, aligned to 16 bytes, as large as the op's function says | null
#ifndef VLLM_KERNELS_CUDA_MLA_MLA_H_
#define VLLM_KERNELS_CUDA_MLA_MLA_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// Attention of each query to selected keys (DeepSeek sparse attention,
// https://arxiv.org/abs/2512.02556), for decoding and prefill:
//   out[b, s, h] = sum_i softmax_i(scale * query[b, s, h] . key_i) value_i
// over i < topk_length[b] with 0 <= indices[b, s, i] < blocks * slots. With a sink the weights of a
// head are divided by 1 + exp(attn_sink[h] - lse) more. A query without a key: out 0, lse +inf.
//   out: [batch, queries, heads, 512], bfloat16, rows aligned to 16 bytes
//   lse: [batch, heads, queries], float32, contiguous: natural log-sum-exp without the sink
//   max_logits: the same | null: the largest scale * query . key, -inf without a key
//   query: [batch, queries, heads, 576], bfloat16, rows aligned to 16 bytes
//   cache: [blocks, slots, 576], bfloat16, or [blocks, slots, 656], uint8 | float8 e4m3: 512 values
//     float8 e4m3, a float32 scale for each 128 of them, 64 bfloat16. Slots a power of two,
//     rows aligned to 16 bytes, 64 GiB at most
//   indices: [batch, queries, topk], int32: block * slots + slot; others are skipped
//   topk_length: [batch], int32 | null
//   attn_sink: [heads], float32 | null
//   scale: above 0
struct vk_cuda_sparse_mla_args {
  const vk_tensor *out, *lse, *max_logits, *query, *cache, *indices, *topk_length, *attn_sink;
  double scale;
  const vk_tensor* workspace;
};
VK_EXPORT vk_status vk_cuda_sparse_mla_workspace(const struct vk_cuda_sparse_mla_args* args,
                                                 int64_t* bytes);
VK_EXPORT vk_status vk_cuda_sparse_mla_attention(const struct vk_cuda_sparse_mla_args* args,
                                                 void* stream);

// Attention of the last queries of each batch entry to its keys, for decoding. With `causal` query
// s of an entry sees all keys but the last queries - 1 - s.
//   out: [batch, queries, heads, 512], lse: [batch, heads, queries], as above, out as query or
//     bfloat16
//   query: [batch, queries, heads, 576], bfloat16 | float16 | float8 e4m3, rows aligned to 16 bytes
//   cache: [blocks, slots, 576], as query; slots and alignment as above
//   block_table: [batch, any], int32: blocks of an entry's keys, in their order; one that is not
//     there has no keys
//   seq_lens: [batch], int32; at most what block_table holds
//   schedule: [parts + 1 or more, 2], int32, contiguous, of vk_cuda_mla_schedule(): trusted
//   query_scale, cache_scale: [1], float32, above 0 | null: 1. What float8 numbers are multiplied
//     with; out is bfloat16 then, and weights of keys are rounded to float8 as well
struct vk_cuda_mla_args {
  const vk_tensor *out, *lse, *query, *cache, *block_table, *seq_lens, *schedule;
  const vk_tensor *query_scale, *cache_scale;
  double scale;
  bool causal;
  const vk_tensor* workspace;
};
VK_EXPORT vk_status vk_cuda_mla_workspace(const struct vk_cuda_mla_args* args, int64_t* bytes);
VK_EXPORT vk_status vk_cuda_mla_attention(const struct vk_cuda_mla_args* args, void* stream);

// How the keys of a batch are divided among the GPU's multiprocessors, for all layers.
//   parts: how many rows `schedule` has, less one
//   max_keys: what a row of block_table holds
VK_EXPORT vk_status vk_cuda_mla_parts(int64_t queries, int64_t heads, int64_t* parts);
VK_EXPORT vk_status vk_cuda_mla_schedule(const vk_tensor* schedule, const vk_tensor* seq_lens,
                                         int64_t max_keys, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_MLA_MLA_H_
