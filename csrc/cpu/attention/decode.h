// Few query rows against many keys (decode), for `*_tier.cc` files: keys and values are streamed
// once, straight from the cache, for all query heads that share them.
#ifndef VLLM_KERNELS_CPU_ATTENTION_DECODE_H_
#define VLLM_KERNELS_CPU_ATTENTION_DECODE_H_

#include "cpu/attention/keys.h"
#include "cpu/attention/softmax.h"

namespace vk::VK_TIER {

// The sums of the lanes of four vectors, to to[0..3].
HWY_INLINE void StoreSums(VF a, VF b, VF c, VF e, float* to) {
  const DF d;
  const hn::Repartition<double, DF> dd;
  const VF ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const VF ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto low = hn::InterleaveLower(dd, hn::BitCast(dd, ab), hn::BitCast(dd, ce));
  const auto high = hn::InterleaveUpper(dd, hn::BitCast(dd, ab), hn::BitCast(dd, ce));
  const VF blocks = hn::Add(hn::BitCast(d, low), hn::BitCast(d, high));
  if constexpr (kLanes == 4) return hn::StoreU(blocks, d, to);
  const hn::Half<DF> dh;
  const auto half = hn::Add(hn::LowerHalf(dh, blocks), hn::UpperHalf(dh, blocks));
  if constexpr (kLanes == 16) {
    const hn::Half<decltype(dh)> dq;
    hn::StoreU(hn::Add(hn::LowerHalf(dq, half), hn::UpperHalf(dq, half)), dq, to);
  } else {
    hn::StoreU(half, dh, to);
  }
}

template <class T>
class Decode {
 public:
  struct Scope {};  // no machine state to set up
  // With more rows, the kernels that put rows into lanes fill their lanes.
  static constexpr int32_t kMaxRows = kLanes / 2;
  static constexpr int32_t kKeys = 64;  // a step's keys and values stay in the L1 cache

  Decode(Arena& arena, const Tile& tile)
      : tile_(tile),
        rows_(arena, kKeys),
        ahead_(arena, kKeys),
        decoded_(arena, kKeys, tile.padded_head),
        ahead_first_(-1),
        ahead_count_(0),
        row_bytes_(0),
        query_(arena.Take<float>(static_cast<size_t>(kMaxRows) * tile.padded_head)),
        logits_(arena.Take<float>(kMaxRows * kKeys)) {}

  void Start(const AttentionProblem& problem, const AttentionTask& task) {
    for (int32_t row = 0; row < tile_.rows; ++row) {
      const T* from = QueryRow(static_cast<const T*>(problem.query), problem.query_token_stride,
                               problem.query_head_stride, problem, task, row);
      float* to = query_ + static_cast<size_t>(row) * tile_.padded_head;
      ForHead([&](int32_t i, size_t count) { StoreF32(LoadUpTo(from + i, count), to + i); });
    }
    hwy::ZeroBytes(tile_.out, sizeof(float) * tile_.rows * tile_.padded_head);
    row_bytes_ = tile_.head_size * CachedBytes<T>(problem);
  }

  void Step(const AttentionProblem& problem, const AttentionTask& task, const LogitRule& rule,
            int32_t first, int32_t count) {
    FindRows(problem, task, first, count);
    decoded_.Replace(problem, count, rows_);
    ForRowBlocks<kDotRows>(tile_.rows, [&](int32_t row, auto rows) {
      for (int32_t key = 0; key < count; key += 4) {
        Dots<decltype(rows)::kValue>(row, key, count);
      }
    });
    SoftmaxRows(rule, tile_, logits_, kKeys, first, count);
    ForRowBlocks<kSumRows>(tile_.rows, [&](int32_t row, auto rows) {
      Accumulate<decltype(rows)::kValue>(row, count);
    });
    for (int32_t key = count; key < ahead_count_; ++key) {
      PrefetchRow(ahead_.keys[key], row_bytes_);
      PrefetchRow(ahead_.values[key], row_bytes_);
    }
  }

  void Finish() {}

 private:
  static constexpr int kDotRows = kLanes == 16 ? 4 : 2;  // x 4 keys: accumulators
  static constexpr int kSumRows = 4;                     // x kMicroVectors

  template <class Body>
  HWY_INLINE void ForHead(const Body& body) const {
    for (int32_t i = 0; i < tile_.head_size; i += kLanes) {
      body(i, static_cast<size_t>(HWY_MIN(kLanes, tile_.head_size - i)));
    }
  }

  // The rows of this step, and those of the next one, which are prefetched while this step
  // computes: the hardware prefetcher stops at page boundaries and has not started yet where a
  // request is short.
  void FindRows(const AttentionProblem& problem, const AttentionTask& task, int32_t first,
                int32_t count) {
    if (first == ahead_first_) {
      const KeyRows<T> found = ahead_;
      ahead_ = rows_;
      rows_ = found;
    } else {
      rows_.Find(problem, task, first, count);
    }
    const bool more = first + count < task.key_end;
    const AttentionTask* from = more ? &task : task.next;
    const int32_t begin = more ? first + count : from == nullptr ? 0 : from->key_begin;
    ahead_count_ = from == nullptr ? 0 : HWY_MIN(kKeys, from->key_end - begin);
    ahead_first_ = more ? begin : -1;
    if (ahead_count_ > 0) ahead_.Find(problem, *from, begin, ahead_count_);
  }

  // Logits of kRows rows and four keys. Past the last key it repeats that key, which the softmax
  // masks.
  template <int kRows>
  HWY_INLINE void Dots(int32_t row, int32_t key, int32_t count) {
    const DF d;
    const T* keys[4];
    for (int i = 0; i < 4; ++i) keys[i] = rows_.keys[HWY_MIN(key + i, count - 1)];
    if (row == 0) {
      for (int32_t i = key; i < HWY_MIN(key + 4, ahead_count_); ++i) {
        PrefetchRow(ahead_.keys[i], row_bytes_);
        PrefetchRow(ahead_.values[i], row_bytes_);
      }
    }
    const float* query = query_ + static_cast<size_t>(row) * tile_.padded_head;
    VF sum[kRows][4];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = sum[r][2] = sum[r][3] = hn::Zero(d);
    const auto step = [&](int32_t i, auto load) HWY_ATTR {
      VF k[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) k[j] = load(keys[j] + i);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const VF q = hn::LoadU(d, query + r * tile_.padded_head + i);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sum[r][j] = hn::MulAdd(q, k[j], sum[r][j]);
      }
    };
    int32_t i = 0;
    for (; i + kLanes <= tile_.head_size; i += kLanes) {
      step(i, [](const T* from) { return LoadF32(from); });
    }
    if (i < tile_.head_size) {
      const size_t rest = tile_.head_size - i;
      step(i, [rest](const T* from) { return LoadF32N(from, rest); });
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      StoreSums(sum[r][0], sum[r][1], sum[r][2], sum[r][3], logits_ + (row + r) * kKeys + key);
    }
  }

  // out = out * correction + probabilities . values
  template <int kRows>
  HWY_INLINE void Accumulate(int32_t row, int32_t count) {
    float* out = tile_.out + static_cast<size_t>(row) * tile_.padded_head;
    const float* probabilities = logits_ + row * kKeys;
    const auto probability = [&](int m, int32_t k) {
      return hn::Set(DF(), probabilities[m * kKeys + k]);
    };
    int32_t i = 0;
    const auto panel = [&](auto vectors) HWY_ATTR {
      constexpr int kN = decltype(vectors)::kValue;
      MicroBlock<FloatMac, kRows, kN>(
          count, probability,
          [&](int32_t k, int n) { return LoadF32(rows_.values[k] + i + n * kLanes); }, out + i,
          tile_.padded_head, tile_.correction + row);
      i += kN * kLanes;
    };
    while (i + kMicroVectors * kLanes <= tile_.head_size) panel(Constant<kMicroVectors>());
    while (i + 2 * kLanes <= tile_.head_size) panel(Constant<2>());
    if (i + kLanes <= tile_.head_size) panel(Constant<1>());
    if (i == tile_.head_size) return;
    const size_t rest = tile_.head_size - i;
    MicroBlock<FloatMac, kRows, 1>(
        count, probability, [&](int32_t k, int) { return LoadF32N(rows_.values[k] + i, rest); },
        out + i, tile_.padded_head, tile_.correction + row);
  }

  const Tile& tile_;
  KeyRows<T> rows_, ahead_;
  Decoded<T> decoded_;
  int32_t ahead_first_;  // of this task's keys in ahead_; -1: they are another task's
  int32_t ahead_count_;
  size_t row_bytes_;  // of a row in the cache
  float* query_;      // [kMaxRows][padded_head]
  float* logits_;     // [kMaxRows][kKeys], then the probabilities
};

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_DECODE_H_
