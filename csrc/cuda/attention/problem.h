// What the kernels of one attention call share; passed to them by value.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_PROBLEM_H_
#define VLLM_KERNELS_CUDA_ATTENTION_PROBLEM_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace vk::cuda::attention {

// Bytes from one block, slot of a block, or head to the next; packed keys are one block.
struct CacheStrides {
  int64_t block, slot, head;
};

// Strides count elements where nothing else is said.
struct Problem {
  const void* query;
  const void* key;
  const void* value;
  void* out;
  float* lse;  // null or [heads, tokens]
  const int32_t* query_start;
  const int32_t* seq_lens;     // null: lengths are the differences of key_start
  const int32_t* key_start;    // null where the cache is paged
  const int32_t* block_table;  // null where the keys are packed
  const uint8_t* dynamic_causal;
  const float* alibi;
  const void* sinks;
  const float* k_scale;
  const float* v_scale;
  float* partial_out;  // [splits, requests, kv_heads, decode rows, value_head_size], unnormalised
  float* partial_lse;  // [splits, requests, kv_heads, decode rows, 2]: maximum (base 2), sum
  int64_t query_token_stride, query_head_stride;
  int64_t out_token_stride, out_head_stride;
  CacheStrides key_strides, value_strides;
  int64_t table_stride;
  int64_t lse_head_stride;
  int64_t alibi_request_stride;
  int64_t k_scale_request_stride, k_scale_head_stride;
  int64_t v_scale_request_stride, v_scale_head_stride;
  int32_t tokens, requests, heads, kv_heads, group;  // group: query heads of one key/value head
  int32_t head_size, value_head_size;
  int32_t blocks, block_size, pages;  // pages: columns of the block table
  // key / block_size = key * page_factor >> page_shift for keys below 2^31; packed: 0.
  uint32_t page_factor;
  int32_t page_shift;
  int32_t window_left, window_right;  // INT32_MAX: none
  int32_t decode_query_len;           // longer requests are the prefill kernel's
  int32_t decode_rows;                // decode_query_len * group
  int32_t splits, min_split_tiles;    // of a decode request's keys
  float scale, softcap;               // softcap 0: none
  bool causal, sinks_are_float;
  bool query_vector, kv_vector, out_vector;  // rows start at and have multiples of 16 bytes
};

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_PROBLEM_H_
