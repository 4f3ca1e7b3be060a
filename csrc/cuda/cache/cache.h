// The paged key/value cache: writing tokens into it, gathering them from it, moving its blocks
// (Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
// 2023). Tensors are on the current GPU; work is enqueued on `stream` (a cudaStream_t), nothing is
// allocated or waited for.
//
// kv_cache_dtype: "auto", "float32", "bfloat16" or "float16": the cache has the dtype of what is
//   written; "fp8" or "fp8_e4m3": float8_e4m3fn, as such or as uint8; "fp8_e5m2": as uint8
// Scales (float32) belong to the float8 caches, which hold x / scale, saturated.
// A slot, position or block that the cache does not have is skipped.
#ifndef VLLM_KERNELS_CUDA_CACHE_CACHE_H_
#define VLLM_KERNELS_CUDA_CACHE_CACHE_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// key_cache[s / block_size, s % block_size, h] = key[t, h] where s = slot_mapping[t], and the same
// for value.
//   key, value: [tokens, heads, head_size], float32 | bfloat16 | float16, last dimension
//   contiguous;
//     value may have another head_size
//   key_cache, value_cache: [blocks, block_size, heads, head_size], last dimension contiguous, any
//     other strides
//   slot_mapping: int64 [n], contiguous; the first min(n, tokens) tokens are written
//   k_scale, v_scale: float32, one element or one for each head
VK_EXPORT vk_status vk_cuda_reshape_and_cache_flash(
    const vk_tensor* key, const vk_tensor* value, const vk_tensor* key_cache,
    const vk_tensor* value_cache, const vk_tensor* slot_mapping, const char* kv_cache_dtype,
    const vk_tensor* k_scale, const vk_tensor* v_scale, void* stream);

// The same into the older layout:
//   key_cache: [blocks, heads, head_size / x, block_size, x]
//   value_cache: [blocks, heads, head_size, block_size]; both contiguous
VK_EXPORT vk_status vk_cuda_reshape_and_cache(const vk_tensor* key, const vk_tensor* value,
                                              const vk_tensor* key_cache,
                                              const vk_tensor* value_cache,
                                              const vk_tensor* slot_mapping,
                                              const char* kv_cache_dtype, const vk_tensor* k_scale,
                                              const vk_tensor* v_scale, void* stream);

// kv_cache[s / block_size, s % block_size] = concat(kv_c[t], k_pe[t]) (DeepSeek-V2, 2024)
//   kv_c: [tokens, rank], k_pe: [tokens, rope], one dtype, last dimension contiguous
//   kv_cache: [blocks, block_size, rank + rope], last dimension contiguous
//   kv_cache_dtype: also "fp8_ds_mla": rank 512 and rope 64 of a 16-bit dtype, entries of 656
//   bytes:
//     512 float8_e4m3fn, a float32 scale for each 128 of them, k_pe as it is
VK_EXPORT vk_status vk_cuda_concat_and_cache_mla(const vk_tensor* kv_c, const vk_tensor* k_pe,
                                                 const vk_tensor* kv_cache,
                                                 const vk_tensor* slot_mapping,
                                                 const char* kv_cache_dtype, const vk_tensor* scale,
                                                 void* stream);

// The same of several layers at once, into caches that are alike but for their addresses. How many
// blocks these have is not known here: any slot that is not negative is trusted.
//   kv_c: [layers, tokens, rank], k_pe: [layers, tokens, rope]
//   kv_cache_ptrs: int64 [layers];  slot_mapping: int64 [layers, n], last dimension contiguous
//   block_size: entries of a block;  block_stride, entry_stride: in elements of the cache
//   kv_scales: float32 [layers], for the float8 caches, or null;  kv_cache_dtype: not "fp8_ds_mla"
VK_EXPORT vk_status vk_cuda_concat_and_cache_mla_grouped(
    const vk_tensor* kv_c, const vk_tensor* k_pe, const vk_tensor* kv_cache_ptrs,
    const vk_tensor* slot_mapping, int64_t block_size, int64_t block_stride, int64_t entry_stride,
    const vk_tensor* kv_scales, const char* kv_cache_dtype, void* stream);

// The same after the rotary embedding of k_pe and of the query's q_pe, in place. Tokens without a
// slot or a position in the cache of angles are left as they are.
//   positions: int64 [tokens]; q_pe: [tokens, heads, rope], dtype of kv_c, last dimension
//   contiguous cos_sin_cache: [positions, rope], dtype of kv_c | float32: cosines of the pairs,
//   then sines is_neox: pairs are i and i + rope / 2, else 2 i and 2 i + 1 slot_mapping: int64
//   [tokens]
VK_EXPORT vk_status vk_cuda_concat_and_cache_mla_rope_fused(
    const vk_tensor* positions, const vk_tensor* q_pe, const vk_tensor* k_pe, const vk_tensor* kv_c,
    const vk_tensor* cos_sin_cache, bool is_neox, const vk_tensor* slot_mapping,
    const vk_tensor* kv_cache, const char* kv_cache_dtype, const vk_tensor* scale, void* stream);

// q_out[t, h] = concat(ql_nope[t, h], q_pe[t, h]); one dtype, last dimensions contiguous. q_out may
// have more heads, which stay as they are.
VK_EXPORT vk_status vk_cuda_concat_mla_q(const vk_tensor* ql_nope, const vk_tensor* q_pe,
                                         const vk_tensor* q_out, void* stream);

// dst[t] = entry p of sequence b, as dst's dtype: b = token_to_seq[t],
// p = t - cu_seq_lens[b] + seq_starts[b]
//   src_cache: [blocks, block_size, ...], dst: [>= num_tokens, ...], entries contiguous
//   block_table: int32 [sequences, pages], cu_seq_lens: int32 [sequences + 1],
//   token_to_seq: int32 [>= num_tokens], seq_starts: int32 [sequences] or null
VK_EXPORT vk_status vk_cuda_gather_and_maybe_dequant_cache(
    const vk_tensor* src_cache, const vk_tensor* dst, const vk_tensor* block_table,
    const vk_tensor* cu_seq_lens, const vk_tensor* token_to_seq, int64_t num_tokens,
    const char* kv_cache_dtype, const vk_tensor* scale, const vk_tensor* seq_starts, void* stream);

// The same without conversion for all tokens of the first batch_size sequences: b is the one that
// t lies in by cu_seq_lens; rows of dst past the last are left.
VK_EXPORT vk_status vk_cuda_cp_gather_cache(const vk_tensor* src_cache, const vk_tensor* dst,
                                            const vk_tensor* block_table,
                                            const vk_tensor* cu_seq_lens, int64_t batch_size,
                                            const vk_tensor* seq_starts, void* stream);

// Entries in the format "fp8_ds_mla" as bfloat16: row t of dst is entry p of sequence b, the last
// of the first batch_size that starts at or before t: p = t - workspace_starts[b] + seq_starts[b].
//   src_cache: uint8 [blocks, block_size, 656], dst: bfloat16 [tokens, 576]; entries and rows
//     contiguous and aligned to 16 bytes
//   block_table: int32 [sequences, pages]; workspace_starts, seq_starts: int32 [sequences], the
//     second or null
VK_EXPORT vk_status vk_cuda_cp_gather_and_upconvert_fp8_kv_cache(
    const vk_tensor* src_cache, const vk_tensor* dst, const vk_tensor* block_table,
    const vk_tensor* workspace_starts, int64_t batch_size, const vk_tensor* seq_starts,
    void* stream);

// The keys of a sparse attention's indexer (DeepSeek-V3.2, 2025): blocks hold block_size * head
// bytes of float8_e4m3fn and then a float32 scale for each quant_block_size elements of each slot:
// max(max |x|, 1e-4) / 448, with scale_format "ue8m0" rounded up to a power of two.
//   k: [tokens, head], float32 | bfloat16 | float16, last dimension contiguous
//   kv_cache: uint8 [blocks, block_size, at least head + head / quant_block_size * 4], blocks
//     contiguous and aligned to 4 bytes
//   slot_mapping: int64 [at most tokens]; quant_block_size: 32 | 64 | 128, divides head
VK_EXPORT vk_status vk_cuda_indexer_k_quant_and_cache(const vk_tensor* k, const vk_tensor* kv_cache,
                                                      const vk_tensor* slot_mapping,
                                                      int64_t quant_block_size,
                                                      const char* scale_format, void* stream);

// Keys and scales of all tokens of the sequences, one behind the other; rows past the last are
// left.
//   dst_k: [rows, head], one byte an element; dst_scale: [rows, bytes of a slot's scales], any
//   dtype block_table: int32 [sequences, pages], cu_seq_lens: int32 [sequences + 1]
VK_EXPORT vk_status vk_cuda_cp_gather_indexer_k_quant_cache(
    const vk_tensor* kv_cache, const vk_tensor* dst_k, const vk_tensor* dst_scale,
    const vk_tensor* block_table, const vk_tensor* cu_seq_lens, void* stream);

// dst = src / scale as float8, or src * scale from float8, one of the two being a float8 cache
//   one shape, both contiguous
VK_EXPORT vk_status vk_cuda_convert_fp8(const vk_tensor* dst_cache, const vk_tensor* src_cache,
                                        double scale, const char* kv_cache_dtype, void* stream);

// Copies blocks of block_size_in_bytes bytes between any two memories, host memory included.
//   src, dst: where blocks follow each other without gaps; block_mapping: int64 [n, 2] in host
//     memory, from and to
VK_EXPORT vk_status vk_cuda_swap_blocks(const vk_tensor* src, const vk_tensor* dst,
                                        int64_t block_size_in_bytes, const vk_tensor* block_mapping,
                                        void* stream);

// Copies sizes[i] bytes from address src_ptrs[i] to dst_ptrs[i]; int64 [n] each, in host memory.
// The addresses and sizes are trusted: nothing can tell whether that memory is the caller's.
VK_EXPORT vk_status vk_cuda_swap_blocks_batch(const vk_tensor* src_ptrs, const vk_tensor* dst_ptrs,
                                              const vk_tensor* sizes, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_CACHE_CACHE_H_
