// The paged key/value cache: where a token's key and value go, and putting them there (Kwon et al.,
// "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023).
#ifndef VLLM_KERNELS_CPU_CACHE_CACHE_H_
#define VLLM_KERNELS_CPU_CACHE_CACHE_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// key_cache[s / block_size, h, s % block_size] = key[t, h] where s = slot_mapping[t], and the same
// for value. A slot of -1 (padding) is skipped; a slot that the cache does not have is refused
// before anything is written.
//   key, value: [tokens, kv_heads, head_size], float32 | bfloat16 | float16, last dim contiguous;
//     value may have another head_size
//   key_cache, value_cache: [blocks, kv_heads, block_size, head_size], the same dtype, or uint8 (or
//     float8_e4m3fn) of floats of 8 bits; last dimension contiguous, any other strides
//   slot_mapping: int64 [n], contiguous; key and value may be padded to more than n tokens, or
//     slot_mapping to more than those of key: the first min(n, tokens) are taken
//   isa: "amx", "vec", "vec16", "neon" or "vsx"; the cache's layout is the same for all
//   kv_cache_dtype: "auto", the cache has the key's dtype; "fp8", "fp8_e4m3" or "fp8_e5m2": it
//     holds key / k_scale and value / v_scale, rounded to nearest and saturated; others are
//     VK_UNSUPPORTED
VK_EXPORT vk_status vk_cpu_reshape_and_cache(const vk_tensor* key, const vk_tensor* value,
                                             const vk_tensor* key_cache,
                                             const vk_tensor* value_cache,
                                             const vk_tensor* slot_mapping, const char* isa,
                                             double k_scale, double v_scale,
                                             const char* kv_cache_dtype);

// Latent attention's cache (DeepSeek-V2, 2024): row slot_mapping[t] of it becomes kv_c[t] followed
// by k_pe[t]. Slots as above.
//   kv_c: [tokens, rank], float32 | bfloat16 | float16; k_pe: [tokens, rope] or [tokens, 1, rope];
//     kv_cache: [blocks, block_size, rank + rope]; one dtype, last dimensions contiguous
//   slot_mapping: int32 | int64 [n], contiguous
VK_EXPORT vk_status vk_cpu_concat_and_cache_mla(const vk_tensor* kv_c, const vk_tensor* k_pe,
                                                const vk_tensor* kv_cache,
                                                const vk_tensor* slot_mapping);

// For request r and each of its tokens t in [query_start_loc[r], query_start_loc[r + 1]):
// slot_mapping[t] = block_table[r, p / block_size] * block_size + p % block_size, p = positions[t].
// Nothing else of slot_mapping is written.
//   query_start_loc: int32 [requests + 1], contiguous, not decreasing
//   positions: int64 [>= tokens], contiguous
//   block_table: int32 [>= requests, max_blocks], last dimension contiguous
//   slot_mapping: int64 [>= tokens], contiguous
VK_EXPORT vk_status vk_cpu_compute_slot_mapping(const vk_tensor* query_start_loc,
                                                const vk_tensor* positions,
                                                const vk_tensor* block_table,
                                                const vk_tensor* slot_mapping, int64_t block_size);

}  // extern "C"

namespace vk {

struct CacheTable {
  // Copies `rows` rows of `bytes` bytes; strides are in bytes.
  void (*copy_rows)(void* to, ptrdiff_t to_stride, const void* from, ptrdiff_t from_stride,
                    size_t rows, size_t bytes);
  // The rows' `count` elements divided by `scale` as floats of 8 bits; strides are in bytes. The
  // first index is E4M3 or E5M2, the second one vk_dtype (float32, bfloat16, float16).
  void (*encode_rows[2][3])(void* to, ptrdiff_t to_stride, const void* from, ptrdiff_t from_stride,
                            size_t rows, size_t count, float scale);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_CACHE_CACHE_H_
