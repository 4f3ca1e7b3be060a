// Rotary position embedding ("RoFormer", Su et al. 2021), alone and after the norm of queries and
// keys. Tensors are on the current GPU; work is enqueued on `stream` (a cudaStream_t), nothing is
// allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_ROPE_ROPE_H_
#define VLLM_KERNELS_CUDA_ROPE_ROPE_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// Rotates, in place, rot_dim components of every head of query and key by the angles of the
// token's position: (x, y) becomes (x cos - y sin, y cos + x sin), in float32, rounded once.
//   positions: [...], int64, contiguous, P elements; a token whose position is outside of
//     cos_sin_cache is left as it is
//   query, key: [..., heads * head_size] or [..., heads, head_size] with P tokens in the leading
//     dimensions, float32 | bfloat16 | float16, last dimension contiguous; each has its own number
//     of heads; key may be null
//   cos_sin_cache: [max_position, rot_dim], query's dtype or float32, last dimension contiguous:
//     rot_dim / 2 cosines, then as many sines
//   is_neox: pairs are components i and i + rot_dim / 2; else 2 i and 2 i + 1 (GPT-J)
//   rope_dim_offset: the first component that is rotated
//   inverse: rotates by the negative angle
VK_EXPORT vk_status vk_cuda_rotary_embedding(const vk_tensor* positions, const vk_tensor* query,
                                             const vk_tensor* key, int64_t head_size,
                                             const vk_tensor* cos_sin_cache, bool is_neox,
                                             int64_t rope_dim_offset, bool inverse, void* stream);

// Each head of the queries and keys in qkv divided by its root mean square, times its weight, then
// rotated in its first rot_dim components; in place, in float32, rounded once. Values are left.
//   qkv: [tokens, (num_heads_q + num_heads_k + num_heads_v) * head_dim], float32 | bfloat16 |
//     float16, last dimension contiguous
//   q_weight, k_weight: [head_dim], qkv's dtype
//   cos_sin_cache: [max_position, rot_dim], qkv's dtype or float32, rot_dim <= head_dim
//   position_ids: int64 [tokens]; a token whose position is outside of cos_sin_cache is normed only
//   head_dim: at most 1024
VK_EXPORT vk_status vk_cuda_fused_qk_norm_rope(const vk_tensor* qkv, int64_t num_heads_q,
                                               int64_t num_heads_k, int64_t num_heads_v,
                                               int64_t head_dim, double eps,
                                               const vk_tensor* q_weight, const vk_tensor* k_weight,
                                               const vk_tensor* cos_sin_cache, bool is_neox,
                                               const vk_tensor* position_ids, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_ROPE_ROPE_H_
