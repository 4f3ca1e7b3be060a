// Attention over the paged key/value cache: any mix of prefill and decode requests in one call.
#ifndef VLLM_KERNELS_CPU_ATTENTION_ATTENTION_H_
#define VLLM_KERNELS_CPU_ATTENTION_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"
#include "cpu/cache_coding.h"

extern "C" {

// The arguments of one attention call; T is float32, bfloat16 or float16, one for all four.
typedef struct vk_attention_args {
  const vk_tensor* query;            // T [tokens, heads, head_size], last dimension contiguous
  const vk_tensor* key_cache;        // T [blocks, kv_heads, block_size, head_size], likewise
  const vk_tensor* value_cache;      // T, the shape of key_cache, likewise
  const vk_tensor* output;           // T, the shape of query, likewise; written
  const vk_tensor* query_start_loc;  // int32 [requests + 1], first query token of each request
  const vk_tensor* seq_lens;         // int32 [>= requests], keys of each request, queries included
  const vk_tensor* block_table;      // int32 [>= requests, max_blocks], cache block of each page
  const vk_tensor* alibi_slopes;     // float32 [heads] or null (Press et al. 2022)
  const vk_tensor* sinks;            // float32 or T [heads] or null: a logit without a value
  const vk_tensor* dynamic_causal;   // bool [>= requests] or null: overrides `causal` per request
  double scale;                      // multiplies query . key
  double softcap;                    // logits become softcap * tanh(logit / softcap); 0: no cap
  int64_t sliding_window;            // keys in (q - window, q], or (q - window, q + window) where
                                     // not causal; -1: no window
  int32_t causal;                    // keys after the query's own position are masked
  double k_scale, v_scale;           // what the numbers of a cache of 8 bits are multiplied with
  const char* kv_cache_dtype;        // "auto": the cache has the query's dtype; "fp8" ("fp8_e4m3")
                                     // or "fp8_e5m2": uint8 (or float8_e4m3fn)
} vk_attention_args;

// output = softmax(scale * query . keys + bias) . values, in float32 with the online softmax of
// Milakov and Gimelshein 2018, tiled as in FlashAttention (Dao et al. 2022) and split along the
// keys where requests x heads are too few for the threads (Flash-Decoding, Dao et al. 2023).
// Query head h reads key/value head h / (heads / kv_heads). A row without a visible key is 0.
// VK_INVALID_ARGUMENT: dtype, shape, stride, lengths or a block index; VK_UNSUPPORTED:
// kv_cache_dtype or head size (multiples of 8 up to 1024 are served).
VK_EXPORT vk_status vk_cpu_attention(const vk_attention_args* args);

// Latent attention (multi-head latent attention, DeepSeek-V2 2024) of one token of each request:
// all heads share one row a key, whose first elements are its value.
//   query: T [requests, heads, head_size]; out: T [requests, heads, value_size], written; T is
//     float32, bfloat16 or float16, one for all; last dimensions contiguous
//   kv_cache: T [blocks, block_size, head_size], last dimension contiguous
//   block_tables: int32 [>= requests, max_blocks]; seq_lens: int32 [>= requests]; a request without
//     keys gives zeros
// Errors as of vk_cpu_attention.
VK_EXPORT vk_status vk_cpu_mla_decode(const vk_tensor* out, const vk_tensor* query,
                                      const vk_tensor* kv_cache, double scale,
                                      const vk_tensor* block_tables, const vk_tensor* seq_lens);

// The arguments of attention whose keys lie in any rows of a buffer, a number for each; T as above,
// one for all tensors without another dtype. I is int32 or int64, one for all.
typedef struct vk_row_attention_args {
  const vk_tensor* query;         // T [tokens, heads, head_size], last dimension contiguous
  const vk_tensor* output;        // T [tokens, heads, value_size], likewise; written
  const vk_tensor* k_buffer;      // T [rows, kv_heads, head_size], likewise
  const vk_tensor* v_buffer;      // T [rows, kv_heads, value_size <= head_size], likewise; best
                                  // the first elements of k_buffer's rows, or head_size ones
  const vk_tensor* req_to_token;  // I [table rows, >= keys], rows of the buffers; last dimension
                                  // contiguous
  const vk_tensor* req_pool_indices;  // int64 [requests], row of req_to_token; contiguous
  const vk_tensor* seq_lens;          // int64 [requests], keys of each request; contiguous
  const vk_tensor* sinks;             // float32 or T [heads] or null: a logit without a value
  // The tokens of vk_cpu_extend_attention; null for vk_cpu_decode_attention.
  const vk_tensor* k_extend;          // T [tokens, kv_heads, head_size]: the last keys of a request
  const vk_tensor* v_extend;          // T [tokens, kv_heads, value_size]; both as the buffers
  const vk_tensor* extend_seq_lens;   // I [requests], query tokens of each request; contiguous
  const vk_tensor* extend_start_loc;  // I [requests], the first of them in `query`; contiguous
  double scale;                       // as above
  double softcap;
  int64_t sliding_window;  // keys in (q - window, q]; 0 or less: no window
} vk_row_attention_args;

// vk_cpu_attention of one token of each request; a request without keys gives zeros.
VK_EXPORT vk_status vk_cpu_decode_attention(const vk_row_attention_args* args);

// vk_cpu_attention, causal, of the last tokens of each request. Their keys and values are those of
// k_extend and v_extend, whatever the buffers have in their rows; where these have the same, which
// is looked at first, all are read from there.
VK_EXPORT vk_status vk_cpu_extend_attention(const vk_row_attention_args* args);

// Length in int32 of the scheduler metadata, which is opaque to the engine. The plan is made from
// seq_lens in each call (a few microseconds), so it can never be stale; the metadata is a stamp.
#define VK_ATTENTION_METADATA_LENGTH 4
VK_EXPORT vk_status vk_cpu_attention_metadata(int64_t requests, int64_t heads, int64_t kv_heads,
                                              int64_t head_size, int32_t* metadata);

// Whether the engine may ask for the layout `isa` ("vec", "vec16", "amx"): the cache has the same
// layout for all, so what counts is that this CPU can run the kernels behind the name.
VK_EXPORT vk_status vk_cpu_attention_has_isa(const char* isa, int32_t* has);

}  // extern "C"

namespace vk {

// What all tasks of a call share. Strides count elements.
struct AttentionProblem {
  const void* query;
  const void* key;
  const void* value;
  void* output;
  int64_t query_token_stride, query_head_stride;
  int64_t output_token_stride, output_head_stride;
  int64_t key_block_stride, key_head_stride, key_slot_stride;
  int64_t value_block_stride, value_head_stride, value_slot_stride;
  const float* alibi_slopes;             // null or [heads]
  const float* sinks;                    // null or [heads]
  int32_t head_size, block_size, group;  // group: query heads per key/value head
  int32_t value_size;                    // elements of a value that are written, up to head_size
  int32_t window;                        // INT32_MAX: none
  float scale, softcap;                  // softcap 0: none; `scale` has those of the keys in it
  float value_scale;                     // of the cached values
  CacheCoding coding;                    // of the cache; plain: elements of the query's dtype
};

// A tile of consecutive query tokens of one request, times the query heads of one key/value head,
// against a range of keys. Row r of the tile is token r / group, head r % group.
struct AttentionTask {
  const int32_t* blocks;  // the request's row of the block table
  int64_t first_token;    // row of `query` and `output`
  int32_t tokens;
  int32_t first_position;  // of the first token within its request
  int32_t seq_len;
  int32_t kv_head;
  int32_t key_begin, key_end;  // visible to some row; empty where none is
  int32_t causal;
  int32_t split_group;        // -1, or the index of the tasks whose results are merged
  int32_t partial;            // slot of the partial result where split_group >= 0
  const AttentionTask* next;  // null, or what this thread probably does next: may be prefetched
};

// A partial result: rows x padded head size of unnormalised output, then maxima, then sums.
struct AttentionPartials {
  const float* first;
  size_t stride;  // floats from one partial to the next
  int32_t count;
};

// The index of each array is vk_dtype (float32, bfloat16, float16).
struct AttentionTable {
  int32_t tile_rows;       // rows that keep the kernels busy
  int32_t long_tile_rows;  // and where many keys are copied for each tile; heads up to 128
  int32_t key_multiple;    // splits along the keys start at multiples of this
  size_t (*scratch_bytes)(int32_t head_size, int32_t rows);
  size_t (*partial_floats)(int32_t head_size, int32_t rows);
  // Writes the output, or `partial` where that is not null. `scratch` is aligned to 64 bytes.
  void (*attend[3])(const AttentionProblem& problem, const AttentionTask& task, void* scratch,
                    float* partial);
  // Writes the output of one split group; `task` is any of its tasks.
  void (*merge[3])(const AttentionProblem& problem, const AttentionTask& task,
                   const AttentionPartials& partials, void* scratch);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ATTENTION_ATTENTION_H_
