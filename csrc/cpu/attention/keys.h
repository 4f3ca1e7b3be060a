// Walks the paged cache, for `*_tier.cc` files.
#ifndef VLLM_KERNELS_CPU_ATTENTION_KEYS_H_
#define VLLM_KERNELS_CPU_ATTENTION_KEYS_H_

#include "cpu/attention/tile.h"
#include "cpu/float8.h"

namespace vk::VK_TIER {

// Bytes of a cached element where the query's are T.
template <class T>
HWY_INLINE int64_t CachedBytes(const AttentionProblem& problem) {
  return problem.coding == kCachePlain ? sizeof(T) : 1;
}

// Addresses of the key rows and of the value rows of a range of keys.
struct KeyRows {
  const void** keys;
  const void** values;

  KeyRows(Arena& arena, int32_t count)
      : keys(arena.Take<const void*>(count)), values(arena.Take<const void*>(count)) {}

  // `bytes`: of a cached element.
  void Find(const AttentionProblem& problem, const AttentionTask& task, int32_t first,
            int32_t count, int64_t bytes) {
    const char* key_base =
        static_cast<const char*>(problem.key) + task.kv_head * problem.key_head_stride * bytes;
    const char* value_base =
        static_cast<const char*>(problem.value) + task.kv_head * problem.value_head_stride * bytes;
    int32_t page = first / problem.block_size, slot = first % problem.block_size;
    for (int32_t i = 0; i < count; ++page, slot = 0) {
      const int64_t block = task.blocks[page];
      const char* key = key_base + block * problem.key_block_stride * bytes;
      const char* value = value_base + block * problem.value_block_stride * bytes;
      for (; slot < problem.block_size && i < count; ++slot, ++i) {
        keys[i] = key + slot * problem.key_slot_stride * bytes;
        values[i] = value + slot * problem.value_slot_stride * bytes;
      }
    }
  }
};

// Rows of T of a cache of 8 bits: a step's keys and values, which stay in the caches of the core.
// Every code is a value of T, so nothing is rounded; the scales and WidenedBy are applied
// elsewhere.
template <class T>
class Decoded {
 public:
  Decoded(Arena& arena, int32_t count, int32_t padded_head)
      : stride_(padded_head),
        keys_(arena.Take<T>(static_cast<size_t>(count) * padded_head)),
        values_(arena.Take<T>(static_cast<size_t>(count) * padded_head)) {}

  // Elements from one key row to the next.
  int64_t stride() const { return stride_; }

  void Replace(const AttentionProblem& problem, int32_t count, KeyRows& rows) const {
    if (problem.coding == kCacheE4m3) return Decode<E4m3>(problem.head_size, count, rows);
    if (problem.coding == kCacheE5m2) return Decode<E5m2>(problem.head_size, count, rows);
  }

 private:
  template <class Format>
  void Decode(int32_t head_size, int32_t count, KeyRows& rows) const {
    for (int32_t i = 0; i < count; ++i) {
      DecodeRow<Format>(rows.keys[i], head_size, keys_ + i * stride_);
      DecodeRow<Format>(rows.values[i], head_size, values_ + i * stride_);
    }
  }

  template <class Format>
  static void DecodeRow(const void*& row, int32_t size, T* to) {
    const uint8_t* codes = static_cast<const uint8_t*>(row);
    ForVectors(size, [&](size_t first, size_t lanes) HWY_ATTR {
      StoreUpTo(LoadFloat8<Format>(codes + first, lanes), to + first, lanes);
    });
    row = to;
  }

  const int64_t stride_;
  T* keys_;
  T* values_;
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_KEYS_H_
