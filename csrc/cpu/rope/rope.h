// Rotary position embedding ("RoFormer", Su et al. 2021).
#ifndef VLLM_KERNELS_CPU_ROPE_ROPE_H_
#define VLLM_KERNELS_CPU_ROPE_ROPE_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// Rotates, in place, rot_dim components of every head of query and key by the angles of the
// token's position: (x, y) becomes (x cos - y sin, y cos + x sin), in float32, rounded once.
//   positions: [...], int64, contiguous, P elements in [0, max_position)
//   query, key: [..., heads * head_size] or [..., heads, head_size] with P tokens in the leading
//     dimensions, float32 | bfloat16 | float16, last dimension contiguous; each has its own number
//     of heads; key may be null
//   cos_sin_cache: [max_position, rot_dim], query's dtype or float32, last dimension contiguous:
//     rot_dim / 2 cosines, then as many sines
//   is_neox: pairs are components i and i + rot_dim / 2; else 2 i and 2 i + 1 (GPT-J)
//   rope_dim_offset: the first component that is rotated
//   inverse: rotates by the negative angle
VK_EXPORT vk_status vk_cpu_rotary_embedding(const vk_tensor* positions, const vk_tensor* query,
                                            const vk_tensor* key, int64_t head_size,
                                            const vk_tensor* cos_sin_cache, bool is_neox,
                                            int64_t rope_dim_offset, bool inverse);

}  // extern "C"

namespace vk {

struct RopeTable {
  // The heads of one token: `heads` is the first rotated component of the first one, `stride`
  // counts elements between heads, `cos_sin` is the row of the token's position.
  using Rotate = void(void* heads, size_t count, ptrdiff_t stride, const void* cos_sin,
                      size_t half_dim, bool inverse);
  // [vk_dtype of the heads][1 where cos_sin is float32, else 0: it has the heads' dtype]
  Rotate* neox[3][2];
  Rotate* gptj[3][2];
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ROPE_ROPE_H_
