// Queries, keys and values between their projections and attention, in one pass: heads are normed,
// rotated and written where they are wanted, those of keys and values also to the paged cache. For
// models whose engine calls these by name. Tensors are on the current GPU; work is enqueued on
// `stream` (a cudaStream_t), nothing is allocated or waited for.
//
// Of all of them:
//   rows: bfloat16 | float16, one dtype, the last dimension contiguous, starts and strides
//     multiples of 8 elements; heads of at most 512 elements, a multiple of 8
//   a head is computed in float32 and rounded once, then stored; float8 is made of the rounded
//     values and saturates
//   positions: int64 [at least tokens]; a token whose position has no angles is not rotated
//   cos_sin_cache: [max_position, 2 * pairs], the rows' dtype or float32: cosines, then sines; a
//     multiple of 4 pairs
//   slot_mapping: int64 [n], contiguous: tokens from the n-th on, and those whose slot the cache
//     does not have, are not written to it
//   scales: float32 of one element
//   norm: x / sqrt(mean(x^2) + eps)
#ifndef VLLM_KERNELS_CUDA_QKV_QKV_H_
#define VLLM_KERNELS_CUDA_QKV_QKV_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// DeepSeek-V4. Heads have 512 elements, of which the last 2 * pairs are rotated, neighbours with
// each other. `q` is normed where apply_q_norm, then rotated; `kv` is rotated.
//   q: [tokens, heads, 512]; kv: [tokens, 512]
//   k_cache: [blocks, cache_block_size, 512]

// In place, and into a cache of the rows' dtype.
VK_EXPORT vk_status vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert(
    const vk_tensor* q, const vk_tensor* kv, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
    double eps, int64_t cache_block_size, bool apply_q_norm, void* stream);

// q_fp8 = q * q_fp8_scale_inv of values that are not rounded before, and a cache of kv / fp8_scale
//   q_fp8: float8_e4m3fn, q's shape
VK_EXPORT vk_status vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert(
    const vk_tensor* q, const vk_tensor* kv, const vk_tensor* q_fp8, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
    const vk_tensor* fp8_scale, const vk_tensor* q_fp8_scale_inv, double eps,
    int64_t cache_block_size, bool apply_q_norm, void* stream);

// q_out gets the heads of q, then zeros. The cache has blocks of bytes:
//   kv_mxfp8: slots of 528: 512 float8_e4m3fn, then the exponent of each 32 of them
//   else slots of 576: 448 float8_e4m3fn and 64 of the rows' dtype; behind all of them 8 bytes a
//     slot: the exponent of each 64, and 0
// Values are divided by 2^(exponent - 127), the least power of two that is not below
// max(max |x|, 1e-4) / 448.
//   q_out: [tokens, q_head_padded, 512]; with q_head_padded = 0 only the cache is written
//   k_cache: uint8 [blocks, bytes of a block] or [blocks, cache_block_size, bytes of a slot]
//   is_q_interleaved: element d of head h of q and q_out is (d / 16 * heads + h) * 16 + d % 16 of
//     the token's
VK_EXPORT vk_status vk_cuda_fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
    const char* op, const vk_tensor* q_in, const vk_tensor* kv, const vk_tensor* q_out,
    const vk_tensor* k_cache, const vk_tensor* slot_mapping, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, int64_t q_head_padded, double eps, int64_t cache_block_size,
    bool apply_q_norm, bool kv_mxfp8, bool apply_q_rope, bool is_q_interleaved, void* stream);

// kv alone, in the format that k_cache's dtype tells: bytes as above, float8_e4m3fn of
// kv / fp8_scale, or the rows' dtype.
VK_EXPORT vk_status vk_cuda_fused_deepseek_v4_kv_rope_insert(
    const vk_tensor* kv, const vk_tensor* k_cache, const vk_tensor* slot_mapping,
    const vk_tensor* position_ids, const vk_tensor* cos_sin_cache, int64_t cache_block_size,
    const vk_tensor* fp8_scale, bool kv_mxfp8, void* stream);

// MiniMax-M3. Heads of 128 elements: queries and keys are normed, times 1 + weight, and their first
// rotary_dim components rotated, component i with i + rotary_dim / 2.
//   qkv: [tokens, (num_heads + 2 * num_kv_heads + (num_index_heads + 1, if any)) * 128]: queries,
//     keys, values, queries and the key of the index. Written in place but for what follows
//   q_out, index_q_out: get the queries instead, [tokens, heads * 128]; index_q_out may be
//     float8_e4m3fn
//   q_fp8_out: float8_e4m3fn, queries / q_fp8_scale; without q_out those in qkv are left
//   kv_cache: [blocks, num_kv_heads, block_size, 256]: keys, values; null: no caches
//   index_cache: [blocks, block_size, 128], the rows' dtype or float8_e4m3fn;
//     index_slot_mapping: null: slot_mapping
//   skip_index_branch: the index's part of qkv is left
VK_EXPORT vk_status vk_cuda_fused_minimax_m3_qknorm_rope_kv_insert(
    const vk_tensor* qkv, const vk_tensor* q_norm_weight, const vk_tensor* k_norm_weight,
    const vk_tensor* cos_sin_cache, const vk_tensor* positions, int64_t num_heads,
    int64_t num_kv_heads, int64_t rotary_dim, double eps, const vk_tensor* index_q_norm_weight,
    const vk_tensor* index_k_norm_weight, int64_t num_index_heads, const vk_tensor* slot_mapping,
    const vk_tensor* index_slot_mapping, const vk_tensor* kv_cache, const vk_tensor* index_cache,
    int64_t block_size, const vk_tensor* q_out, const vk_tensor* index_q_out,
    const char* kv_cache_dtype, bool skip_index_branch, const vk_tensor* q_fp8_out,
    double q_fp8_scale, const vk_tensor* kv_k_scale, const vk_tensor* kv_v_scale, void* stream);

// Muse Spark. Queries and keys are normed without a weight and their first rotary_dim components
// rotated, neighbours with each other, where there is a cos_sin_cache; in place.
//   qkv: [tokens, at least (num_heads + 2 * num_kv_heads) * head_dim]
//   kv_cache: [blocks, num_kv_heads, block_size, 2 * head_dim]: keys, values; null: no cache
//   q_fp8_out: float8_e4m3fn [tokens, num_heads * head_dim]: queries / q_scale; those in qkv are
//     then left
VK_EXPORT vk_status vk_cuda_fused_muse_spark_qknorm_rope_kv_insert(
    const vk_tensor* qkv, const vk_tensor* positions, int64_t num_heads, int64_t num_kv_heads,
    int64_t head_dim, double eps, const vk_tensor* cos_sin_cache, int64_t rotary_dim,
    const vk_tensor* slot_mapping, const vk_tensor* kv_cache, int64_t block_size,
    const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale,
    const vk_tensor* q_fp8_out, const vk_tensor* q_scale, void* stream);

// Queries and keys are normed, times weight + norm_weight_bias, rounded, and their first
// 2 * rotary_pairs components rotated, component i with i + rotary_pairs. Keys and values also go
// to the caches.
//   qkv: [tokens, at least (num_q_heads + 2 * num_kv_heads) * head_dim]
//   q_out, k_out, v_out: [tokens, heads * head_dim]
//   q_weight, k_weight: [head_dim], the rows' dtype or float32
//   cos, sin: [max_position, at least rotary_pairs]
//   k_cache, v_cache: [blocks, block_size, num_kv_heads, head_dim]
VK_EXPORT vk_status vk_cuda_fused_qknorm_rope_cache(
    const vk_tensor* q_out, const vk_tensor* k_out, const vk_tensor* v_out, const vk_tensor* qkv,
    const vk_tensor* q_weight, const vk_tensor* k_weight, const vk_tensor* cos,
    const vk_tensor* sin, const vk_tensor* positions, const vk_tensor* slot_mapping,
    const vk_tensor* k_cache, const vk_tensor* v_cache, int64_t head_dim, int64_t num_q_heads,
    int64_t num_kv_heads, int64_t rotary_pairs, double epsilon, double norm_weight_bias,
    const char* kv_cache_dtype, const vk_tensor* k_scale, const vk_tensor* v_scale, void* stream);

// Kimi K3's latent attention. k_pe, q_pe and the last components of q are rotated where there are
// positions and cos_sin_cache, neighbours with each other. A latent is kv_c_normed and k_pe.
//   kv_c_normed: [tokens, rank]; k_pe: [tokens, rope]
//   k_cache: [blocks, cache_block_size, rank + rope], the rows' dtype, or float8_e4m3fn times
//     cache_scale_inv; of the ops ..._ds_mla_insert uint8 [blocks, cache_block_size, 656]: rank 512
//     as float8_e4m3fn, a float32 power of two for each 128 of them, rope 64 as it is

// mqa_q = concat(ql_nope, q_pe), also as float8_e4m3fn times q_scale_inv
//   ql_nope: [tokens, heads, rank]; q_pe: [tokens, heads, rope]
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_decode_q_concat_kv_cache_insert(
    const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* kv_c_normed,
    const vk_tensor* k_pe, const vk_tensor* mqa_q, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream);
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_decode_q_concat_ds_mla_insert(
    const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* kv_c_normed,
    const vk_tensor* k_pe, const vk_tensor* mqa_q, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream);
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_decode_q_concat_kv_cache_fp8_insert(
    const vk_tensor* ql_nope, const vk_tensor* q_pe, const vk_tensor* kv_c_normed,
    const vk_tensor* k_pe, const vk_tensor* mqa_q, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* q_scale_inv, const vk_tensor* cache_scale_inv,
    int64_t cache_block_size, const vk_tensor* position_ids, const vk_tensor* cos_sin_cache,
    void* stream);

// k_out = concat(k_nope, k_pe of each head); q is rotated in place
//   q: [tokens, heads, nope + rope]; k_nope: [tokens, heads, nope]
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_key_concat_kv_cache_insert(
    const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* k_pe,
    const vk_tensor* kv_c_normed, const vk_tensor* k_out, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream);
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_key_concat_ds_mla_insert(
    const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* k_pe,
    const vk_tensor* kv_c_normed, const vk_tensor* k_out, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, int64_t cache_block_size, const vk_tensor* position_ids,
    const vk_tensor* cos_sin_cache, void* stream);

// The same as float8_e4m3fn times a scale each, with q and v.
//   v: [tokens, heads, v_head_dim]
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_qkv_quant_kv_cache_fp8_insert(
    const vk_tensor* q, const vk_tensor* k_nope, const vk_tensor* k_pe,
    const vk_tensor* kv_c_normed, const vk_tensor* v, const vk_tensor* q_fp8,
    const vk_tensor* k_fp8, const vk_tensor* v_fp8, const vk_tensor* k_cache,
    const vk_tensor* slot_mapping, const vk_tensor* q_scale_inv, const vk_tensor* k_scale_inv,
    const vk_tensor* v_scale_inv, const vk_tensor* cache_scale_inv, int64_t cache_block_size,
    const vk_tensor* position_ids, const vk_tensor* cos_sin_cache, void* stream);

// k_out = concat(k_nope, k_pe of each head)
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_kv_concat(const vk_tensor* k_nope,
                                                        const vk_tensor* k_pe,
                                                        const vk_tensor* k_out, void* stream);
// The same, and v, as float8_e4m3fn
//   k_pe: the rows' dtype, or float8_e4m3fn, whose bytes are copied
VK_EXPORT vk_status vk_cuda_fused_kimi_k3_mla_kv_concat_quant_fp8(
    const vk_tensor* k_nope, const vk_tensor* k_pe, const vk_tensor* v, const vk_tensor* k_fp8,
    const vk_tensor* v_fp8, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_QKV_QKV_H_
