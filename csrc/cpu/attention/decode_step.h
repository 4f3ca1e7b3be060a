// One step of decode, for `*_tier.cc` files: a few query rows against a few keys of a cache whose
// rows are read as Row (row.h) does.
#ifndef VLLM_KERNELS_CPU_ATTENTION_DECODE_STEP_H_
#define VLLM_KERNELS_CPU_ATTENTION_DECODE_STEP_H_

#include "cpu/attention/row.h"
#include "cpu/attention/softmax.h"

namespace vk::VK_TIER {

// With more rows, the kernels that put rows into lanes fill their lanes.
constexpr int32_t kDecodeRows = kLanes / 2;
constexpr int32_t kDecodeKeys = 64;  // a step's keys and values stay in the L1 cache

struct DecodeStep {
  const Tile& tile;
  const void* const* keys;  // [count] rows, likewise the other three
  const void* const* values;
  const void* const* keys_ahead;  // what is read next
  const void* const* values_ahead;
  const float* query;  // [rows][padded_head], its elements in the order of Row's
  float* logits;       // [rows][kDecodeKeys]; the last vector is readable beyond `count`
  int32_t count;
};

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

// Four rows share what is read of a key; sixteen registers leave accumulators for two keys then.
constexpr int kDotRows = HWY_MIN(4, kDecodeRows);
constexpr int kDotKeys = kDotRows == 4 && !kManyRegisters ? 2 : 4;

// Logits of kRows rows and kDotKeys keys. Past the last key it repeats that key, which the softmax
// masks.
template <class Row, int kRows>
HWY_INLINE void Dots(const DecodeStep& step, int32_t row, int32_t key) {
  using Element = typename Row::Element;
  const DF d;
  const int32_t head = step.tile.head_size;
  const size_t ld = step.tile.padded_head;
  const Element* keys[kDotKeys];
  for (int j = 0; j < kDotKeys; ++j) {
    const int32_t at = HWY_MIN(key + j, step.count - 1);
    keys[j] = static_cast<const Element*>(step.keys[at]);
    if (row == 0) PrefetchRow(step.keys_ahead[at], head * sizeof(Element));
  }
  const float* query = step.query + row * ld;
  VF sum[kRows][kDotKeys];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kDotKeys; ++j) sum[r][j] = hn::Zero(d);
  }
  const auto add = [&](int32_t i, const auto& load) VK_INLINE_LAMBDA {
    VF k[kDotKeys];
#pragma GCC unroll 4
    for (int j = 0; j < kDotKeys; ++j) k[j] = load(keys[j]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const VF q = InRegister(hn::LoadU(d, query + r * ld + i));
#pragma GCC unroll 4
      for (int j = 0; j < kDotKeys; ++j) sum[r][j] = hn::MulAdd(q, k[j], sum[r][j]);
    }
  };
  int32_t i = 0;
  for (; i + 2 * kLanes <= head; i += 2 * kLanes) {
    add(i, [i](const Element* from) VK_INLINE_LAMBDA { return Row::Half(from + i, 0); });
    add(i + kLanes, [i](const Element* from) VK_INLINE_LAMBDA { return Row::Half(from + i, 1); });
  }
  for (; i < head; i += kLanes) {
    const size_t rest = HWY_MIN(kLanes, head - i);
    add(i, [i, rest](const Element* from) VK_INLINE_LAMBDA { return Row::Rest(from + i, rest); });
  }
  float* to = step.logits + row * kDecodeKeys + key;
  if constexpr (kDotKeys == 4) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r, to += kDecodeKeys) {
      StoreSums(sum[r][0], sum[r][1], sum[r][2], sum[r][3], to);
    }
  } else {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; r += 2, to += 2 * kDecodeKeys) {
      constexpr int kLast = kRows - 1;
      float four[4];
      StoreSums(sum[r][0], sum[r][1], sum[HWY_MIN(r + 1, kLast)][0], sum[HWY_MIN(r + 1, kLast)][1],
                four);
      __builtin_memcpy(to, four, 2 * sizeof(float));
      if (r < kLast) __builtin_memcpy(to + kDecodeKeys, four + 2, 2 * sizeof(float));
    }
  }
}

// out = out * correction + probabilities . values
template <class Row, int kRows>
HWY_INLINE void Accumulate(const DecodeStep& step, int32_t row) {
  using Element = typename Row::Element;
  const int32_t head = step.tile.head_size;
  float* out = step.tile.out + static_cast<size_t>(row) * step.tile.padded_head;
  const float* probabilities = step.logits + row * kDecodeKeys;
  const auto probability = [&](int m, int32_t k) VK_INLINE_LAMBDA {
    return hn::Set(DF(), probabilities[m * kDecodeKeys + k]);
  };
  int32_t i = 0;
  const auto panel = [&](auto vectors, const auto& load) VK_INLINE_LAMBDA {
    constexpr int kN = decltype(vectors)::kValue;
    // The panels of a row prefetch their columns of the rows that are read next.
    const bool ahead = row == 0 && i * sizeof(Element) % kCacheLine == 0;
    MicroBlock<FloatMac, kRows, kN>(
        step.count, probability,
        [&](int32_t k, int n) VK_INLINE_LAMBDA {
          if (n == 0 && ahead) {
            PrefetchRow(static_cast<const Element*>(step.values_ahead[k]) + i,
                        kN * kLanes * sizeof(Element));
          }
          return load(static_cast<const Element*>(step.values[k]) + i, n);
        },
        out + i, step.tile.padded_head, step.tile.correction + row);
    i += kN * kLanes;
  };
  const auto pairs = [](const Element* from, int n)
                         VK_INLINE_LAMBDA { return Row::Half(from + n / 2 * 2 * kLanes, n % 2); };
  while (i + kMicroVectors * kLanes <= head) panel(Constant<kMicroVectors>(), pairs);
  while (i + 2 * kLanes <= head) panel(Constant<2>(), pairs);
  while (i < head) {
    const size_t rest = HWY_MIN(kLanes, head - i);
    panel(Constant<1>(),
          [rest](const Element* from, int) VK_INLINE_LAMBDA { return Row::Rest(from, rest); });
  }
}

template <class Row>
void RunStep(const DecodeStep& step, const LogitRule& rule, int32_t first) {
  ForRowBlocks<kDotRows>(step.tile.rows, [&](int32_t row, auto rows) {
    for (int32_t key = 0; key < step.count; key += kDotKeys) {
      Dots<Row, decltype(rows)::kValue>(step, row, key);
    }
  });
  SoftmaxRows(rule, step.tile, step.logits, kDecodeKeys, first, step.count);
  ForRowBlocks<HWY_MIN(4, kDecodeRows)>(step.tile.rows, [&](int32_t row, auto rows) {
    Accumulate<Row, decltype(rows)::kValue>(step, row);
  });
}

// Puts the pairs of an output that has even and odd elements apart into order.
inline void Interleave(const Tile& tile) {
  const DF d;
  for (int32_t row = 0; row < tile.rows; ++row) {
    float* out = tile.out + static_cast<size_t>(row) * tile.padded_head;
    for (int32_t i = 0; i + 2 * kLanes <= tile.head_size; i += 2 * kLanes) {
      const VF even = hn::LoadU(d, out + i), odd = hn::LoadU(d, out + i + kLanes);
      hn::StoreU(hn::InterleaveWholeLower(d, even, odd), d, out + i);
      hn::StoreU(hn::InterleaveWholeUpper(d, even, odd), d, out + i + kLanes);
    }
  }
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_DECODE_STEP_H_
