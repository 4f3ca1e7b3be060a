// Walks the paged cache, for `*_tier.cc` files.
#ifndef VLLM_KERNELS_CPU_ATTENTION_KEYS_H_
#define VLLM_KERNELS_CPU_ATTENTION_KEYS_H_

#include "cpu/attention/tile.h"

namespace vk::VK_TIER {

// Addresses of the key rows and of the value rows of a range of keys.
template <class T>
struct KeyRows {
  const T** keys;
  const T** values;

  KeyRows(Arena& arena, int32_t count)
      : keys(arena.Take<const T*>(count)), values(arena.Take<const T*>(count)) {}

  void Find(const AttentionProblem& problem, const AttentionTask& task, int32_t first,
            int32_t count) {
    const T* key_base = static_cast<const T*>(problem.key) + task.kv_head * problem.key_head_stride;
    const T* value_base =
        static_cast<const T*>(problem.value) + task.kv_head * problem.value_head_stride;
    int32_t page = first / problem.block_size, slot = first % problem.block_size;
    for (int32_t i = 0; i < count; ++page, slot = 0) {
      const int64_t block = task.blocks[page];
      const T* key = key_base + block * problem.key_block_stride;
      const T* value = value_base + block * problem.value_block_stride;
      for (; slot < problem.block_size && i < count; ++slot, ++i) {
        keys[i] = key + slot * problem.key_slot_stride;
        values[i] = value + slot * problem.value_slot_stride;
      }
    }
  }
};

// Prefetches a row into the L2 cache; the L1 cache is left to the rows being read.
template <class T>
HWY_INLINE void PrefetchRow(const T* row, int32_t elements) {
  constexpr size_t kLine = 64;
  const char* bytes = reinterpret_cast<const char*>(row);
  for (size_t i = 0; i < elements * sizeof(T); i += kLine) __builtin_prefetch(bytes + i, 0, 2);
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_KEYS_H_
