// Attention of CUDA devices: any mix of prefill and decode requests in one call, over a paged
// key/value cache or over packed keys and values.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_ATTENTION_H_
#define VLLM_KERNELS_CUDA_ATTENTION_ATTENTION_H_

#include <cstdint>

#include "core/abi.h"

extern "C" {

// The arguments of one attention call. T is bfloat16 or float16; KV is T or float8_e4m3fn (uint8
// counts as such: the engine stores quantised caches as bytes). All tensors are on one device, and
// the values of index tensors are read there. What seq_lens and block_table say names no memory
// outside of the cache: keys beyond the pages of a row of block_table are none, and a block number
// that none of the blocks has gives the request an unspecified result. query_start_loc and
// key_start_loc are trusted.
typedef struct vk_cuda_attention_args {
  const vk_tensor* out;              // T [tokens, heads, value_head_size]; written
  const vk_tensor* query;            // T [tokens, heads, head_size]
  const vk_tensor* key;              // KV [blocks, block_size, kv_heads, head_size], or without a
                                     // block table [keys, kv_heads, head_size]
  const vk_tensor* value;            // KV, as key, of value_head_size
  const vk_tensor* query_start_loc;  // int32 [requests + 1], first query token of each request
  const vk_tensor* seq_lens;         // int32 [>= requests] or null: keys of each request
  const vk_tensor* key_start_loc;    // int32 [requests + 1] or null: where packed keys begin
  const vk_tensor* block_table;      // int32 [>= requests, pages] or null: block of each page
  const vk_tensor* dynamic_causal;   // bool [>= requests] or null: overrides `causal`
  const vk_tensor* alibi_slopes;     // float32 [heads] or [requests, heads] or null (Press 2022)
  const vk_tensor* sinks;            // float32 or T [heads] or null: a logit without a value
  const vk_tensor* k_scale;          // float32, one value or [requests, kv_heads], or null: 1
  const vk_tensor* v_scale;          // likewise; stored values times the scale are the values
  const vk_tensor* softmax_lse;      // float32 [heads, tokens] or null; log-sum-exp, written
  const vk_tensor* workspace;        // uint8 [>= vk_cuda_attention_workspace()] or null where 0
  int64_t max_query_len;             // upper bounds over the requests: they choose the kernels,
  int64_t max_seq_len;               // so a captured graph serves all shorter requests
  double scale;                      // multiplies query . key
  double softcap;                    // logits become softcap * tanh(logit / softcap); 0: no cap
  int32_t causal;                    // keys after the query's own position are masked
  int64_t window_left;               // keys before position - window_left are masked; -1: none
  int64_t window_right;              // keys after position + window_right are masked; -1: none
  int64_t num_splits;                // of the keys while decoding; 0: chosen
} vk_cuda_attention_args;

// out = softmax(scale * query . keys + bias) . values with the online softmax of Milakov and
// Gimelshein 2018, accumulated in float32 and tiled as in FlashAttention-2 (Dao 2023). The last
// query token of a request has its last key's position. Query head h reads key/value head
// h / (heads / kv_heads). Short requests split their keys (Flash-Decoding, Dao et al. 2023); long
// ones use the Hopper pipeline of FlashAttention-3 (Shah et al. 2024) where the GPU has it. A row
// without a visible key is 0, its log-sum-exp -inf. Tokens past the last request are not written.
// Nothing is allocated or synchronised, so a CUDA graph can hold the call.
// VK_INVALID_ARGUMENT: dtype, shape, stride; VK_UNSUPPORTED: head size above 256 or GPU.
VK_EXPORT vk_status vk_cuda_varlen_attention(const vk_cuda_attention_args* args, void* stream);

// Bytes of workspace that the call needs (its `workspace` is ignored).
VK_EXPORT vk_status vk_cuda_attention_workspace(const vk_cuda_attention_args* args, int64_t* bytes);

// output = the softmax-weighted sum of two partial results over disjoint keys (section 2.2 of Ye
// et al. 2025, FlashInfer). S is float32, bfloat16 or float16.
// output: S, or float8_e4m3fn where output_scale is given (output / scale is stored); prefix_output
// and suffix_output: S; all [tokens, heads, head_size]. The log-sum-exps: float32 [heads, tokens];
// +inf and -inf both mean that there are no keys. Tokens from prefill_tokens_with_context on (-1:
// none) copy the suffix. output_lse may be null; output may be one of the inputs.
VK_EXPORT vk_status vk_cuda_merge_attn_states(
    const vk_tensor* output, const vk_tensor* output_lse, const vk_tensor* prefix_output,
    const vk_tensor* prefix_lse, const vk_tensor* suffix_output, const vk_tensor* suffix_lse,
    int64_t prefill_tokens_with_context, const vk_tensor* output_scale, void* stream);

}  // extern "C"

#endif  // VLLM_KERNELS_CUDA_ATTENTION_ATTENTION_H_
