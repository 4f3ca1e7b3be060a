// Few query rows against many keys (decode), for `*_tier.cc` files: keys and values are streamed
// once, straight from the cache, for all query heads that share them.
#ifndef VLLM_KERNELS_CPU_ATTENTION_DECODE_H_
#define VLLM_KERNELS_CPU_ATTENTION_DECODE_H_

#include "cpu/attention/decode_step.h"
#include "cpu/attention/keys.h"

namespace vk::VK_TIER {

template <class T>
class Decode {
 public:
  struct Scope {};  // no machine state to set up
  static constexpr int32_t kMaxRows = kDecodeRows;
  static constexpr int32_t kKeys = kDecodeKeys;

  Decode(Arena& arena, const Tile& tile)
      : tile_(tile),
        rows_(arena, kKeys),
        ahead_(arena, kKeys),
        ahead_first_(-1),
        query_(arena.Take<float>(static_cast<size_t>(kMaxRows) * tile.padded_head)),
        logits_(arena.Take<float>(kMaxRows * kKeys)) {}

  void Start(const AttentionProblem& problem, const AttentionTask& task) {
    coding_ = problem.coding;
    for (int32_t row = 0; row < tile_.rows; ++row) {
      const T* from = QueryRow(static_cast<const T*>(problem.query), problem.query_token_stride,
                               problem.query_head_stride, problem, task, row);
      float* to = query_ + static_cast<size_t>(row) * tile_.padded_head;
      int32_t i = 0;
      // In the order of the rows of the cache.
      for (; coding_ == kCachePlain && i + 2 * kLanes <= tile_.head_size; i += 2 * kLanes) {
        StoreF32(PlainRow<T>::Half(from + i, 0), to + i);
        StoreF32(PlainRow<T>::Half(from + i, 1), to + i + kLanes);
      }
      for (; i < tile_.head_size; i += kLanes) {
        StoreF32(LoadUpTo(from + i, HWY_MIN(kLanes, tile_.head_size - i)), to + i);
      }
    }
    hwy::ZeroBytes(tile_.out, sizeof(float) * tile_.rows * tile_.padded_head);
  }

  void Step(const AttentionProblem& problem, const AttentionTask& task, const LogitRule& rule,
            int32_t first, int32_t count) {
    FindRows(problem, task, first, count);
    const DecodeStep step{tile_,         rows_.keys, rows_.values, ahead_.keys,
                          ahead_.values, query_,     logits_,      count};
    switch (coding_) {
      case kCacheE4m3:
        return RunStep<CodedRow<E4m3>>(step, rule, first);
      case kCacheE5m2:
        return RunStep<CodedRow<E5m2>>(step, rule, first);
      default:
        return RunStep<PlainRow<T>>(step, rule, first);
    }
  }

  void Finish() {
    if (PlainRow<T>::kEvenAndOdd && coding_ == kCachePlain) Interleave(tile_);
  }

 private:
  // The rows of this step, and those that are read next, which are prefetched while this step
  // computes: the hardware prefetcher stops at page boundaries and has not started yet where a
  // request is short.
  void FindRows(const AttentionProblem& problem, const AttentionTask& task, int32_t first,
                int32_t count) {
    const int64_t bytes = CachedBytes<T>(problem);
    if (first == ahead_first_) {
      const KeyRows found = ahead_;
      ahead_ = rows_;
      rows_ = found;
    } else {
      rows_.Find(problem, task, first, count, bytes);
    }
    const bool more = first + count < task.key_end;
    const AttentionTask* from = more ? &task : task.next;
    const int32_t begin = more ? first + count : from == nullptr ? 0 : from->key_begin;
    int32_t found = from == nullptr ? 0 : HWY_MAX(0, HWY_MIN(kKeys, from->key_end - begin));
    ahead_first_ = more ? begin : -1;
    if (found > 0) ahead_.Find(problem, *from, begin, found, bytes);
    // Where there are fewer, a step prefetches what it has read already.
    for (; found < count; ++found) {
      ahead_.keys[found] = rows_.keys[found];
      ahead_.values[found] = rows_.values[found];
    }
  }

  const Tile& tile_;
  KeyRows rows_, ahead_;
  int32_t ahead_first_;  // of this task's keys in ahead_; -1: they are another task's
  CacheCoding coding_ = kCachePlain;
  float* query_;   // [kMaxRows][padded_head]
  float* logits_;  // [kMaxRows][kKeys], then the probabilities
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_DECODE_H_
