#include "cpu/gated_delta_rule/gated_delta_rule.h"

#include <cmath>

#include "cpu/round.h"
#include "cpu/softplus.h"
#include "cpu/strided.h"

namespace vk::VK_TIER {
namespace {

// Columns of the state that stay in the L1 cache over a chunk of tokens: the recurrence of a column
// needs no other column.
constexpr size_t kColumns = kFloatLanes > 32 ? kFloatLanes : 32;
constexpr int kVectors = static_cast<int>(kColumns / kFloatLanes);
// Tokens whose normalised queries and keys are kept for all columns.
constexpr int64_t kChunk = 32;

template <class T>
void Gating(float* g, float* beta, const float* a_log, const float* dt_bias, const void* a,
            const void* b, size_t heads, float softplus_beta, float threshold) {
  const DF d;
  const VF slope = hn::Set(d, softplus_beta), inverse = hn::Set(d, 1.0f / softplus_beta);
  const VF limit = hn::Set(d, threshold);
  ForVectors(heads, [&](size_t i, size_t count) VK_INLINE_LAMBDA {
    const VF x =
        hn::Add(LoadUpTo(static_cast<const T*>(a) + i, count), LoadUpTo(dt_bias + i, count));
    const VF scaled = hn::Mul(x, slope);
    const VF soft = hn::IfThenElse(hn::Gt(scaled, limit), x, hn::Mul(Softplus(scaled), inverse));
    StoreUpTo(hn::Neg(hn::Mul(Exp(LoadUpTo(a_log + i, count)), soft)), g + i, count);
    StoreUpTo(Sigmoid(LoadUpTo(static_cast<const T*>(b) + i, count)), beta + i, count);
  });
}

void ExpAll(float* values, size_t count) {
  ForVectors(count, [values](size_t i, size_t n) VK_INLINE_LAMBDA {
    StoreUpTo(Exp(LoadUpTo(values + i, n)), values + i, n);
  });
}

template <class T>
void Narrow(void* to, const float* from, size_t count) {
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    StoreUpTo(LoadUpTo(from + i, n), static_cast<T*>(to) + i, n);
  });
}

// A row as float32, divided by its length and times `scale`.
template <class T>
void LoadRow(float* to, const DeltaRows& rows, int64_t token, int64_t head, int64_t width,
             bool normalise, float epsilon, float scale) {
  const DF d;
  const T* from = reinterpret_cast<const T*>(rows.data) + token * rows.token + head * rows.head;
  VF squares = hn::Zero(d);
  ForVectors(width, [&](size_t i, size_t count) VK_INLINE_LAMBDA {
    const VF x = LoadStrided(from + static_cast<int64_t>(i) * rows.element, rows.element, count);
    squares = hn::MulAdd(x, x, squares);
    StoreUpTo(x, to + i, count);
  });
  if (normalise) scale /= std::sqrt(hn::ReduceSum(d, squares) + epsilon);
  ForVectors(width, [&](size_t i, size_t count) VK_INLINE_LAMBDA {
    StoreUpTo(hn::Mul(LoadUpTo(to + i, count), hn::Set(d, scale)), to + i, count);
  });
}

float Dot(const float* a, const float* b, int64_t width) {
  VF sum = hn::Zero(DF());
  ForVectors(width, [&](size_t i, size_t count) VK_INLINE_LAMBDA {
    sum = hn::MulAdd(LoadUpTo(a + i, count), LoadUpTo(b + i, count), sum);
  });
  return hn::ReduceSum(DF(), sum);
}

struct Sums {
  VF key[kVectors], query[kVectors];  // S^T k and S^T q of these columns
};

// S = decay S + k delta^T where kUpdate, and the products of the result with the next key and
// query, in one pass over `state` [key_size][kColumns].
template <bool kUpdate>
HWY_INLINE void Pass(float* state, int64_t key_size, const float* key, float decay, const VF* delta,
                     const float* next_key, const float* next_query, Sums& sums) {
  const DF d;
  VF by_key[kVectors], by_query[kVectors];
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) by_key[j] = by_query[j] = hn::Zero(d);
  const VF factor = hn::Set(d, decay);
  for (int64_t row = 0; row < key_size; ++row) {
    float* at = state + row * kColumns;
    const VF k = hn::Set(d, next_key[row]), q = hn::Set(d, next_query[row]);
    [[maybe_unused]] const VF own = hn::Set(d, kUpdate ? key[row] : 0.0f);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      VF s = hn::LoadU(d, at + j * kFloatLanes);
      if constexpr (kUpdate) {
        s = hn::MulAdd(own, delta[j], hn::Mul(s, factor));
        hn::StoreU(s, d, at + j * kFloatLanes);
      }
      by_key[j] = hn::MulAdd(k, s, by_key[j]);
      by_query[j] = hn::MulAdd(q, s, by_query[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) sums.key[j] = by_key[j], sums.query[j] = by_query[j];
}

// Rows of queries and keys of a chunk, and of zeros behind the last one.
struct Chunk {
  float* queries;
  float* keys;
  float* products;  // query . key
  const float* zeros;
};

size_t Blocks(int64_t value_size) { return CeilDiv<size_t>(value_size, kColumns); }
size_t PaddedKey(int64_t key_size) { return RoundUp<size_t>(key_size, 16); }

size_t ScratchFloats(int64_t key_size, int64_t value_size) {
  return Blocks(value_size) * key_size * kColumns + (2 * kChunk + 1) * PaddedKey(key_size) + kChunk;
}

template <class S>
void LoadState(float* to, const S* from, int64_t key_size, int64_t value_size, size_t first,
               size_t columns) {
  for (int64_t row = 0; row < key_size; ++row) {
    float* into = to + row * kColumns;
    for (size_t i = 0; i < kColumns; i += kFloatLanes) {
      const size_t count = i < columns ? HWY_MIN(kFloatLanes, columns - i) : 0;
      const VF x =
          count > 0 ? LoadUpTo(from + row * value_size + first + i, count) : VF(hn::Zero(DF()));
      hn::StoreU(x, DF(), into + i);
    }
  }
}

template <class S>
void StoreState(S* to, const float* from, int64_t key_size, int64_t value_size, size_t first,
                size_t columns) {
  for (int64_t row = 0; row < key_size; ++row) {
    for (size_t i = 0; i < columns; i += kFloatLanes) {
      StoreUpTo(LoadF32(from + row * kColumns + i), to + row * value_size + first + i,
                HWY_MIN(kFloatLanes, columns - i));
    }
  }
}

// The chunk's tokens over kColumns columns of the state.
template <class S, class T>
void Columns(const DeltaRule& rule, const DeltaSequence& sequence, int64_t head, int64_t begin,
             int64_t count, const Chunk& chunk, float* state, size_t first) {
  const DF d;
  const size_t padded = PaddedKey(rule.key_size);
  const size_t columns = HWY_MIN(kColumns, static_cast<size_t>(rule.value_size) - first);
  Sums sums;
  Pass<false>(state, rule.key_size, nullptr, 0.0f, nullptr, chunk.keys, chunk.queries, sums);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t token = sequence.first + begin + t;
    const float decay = rule.decay[token * rule.value_heads + head];
    const VF beta = hn::Set(d, rule.beta[token * rule.value_heads + head]);
    const VF forget = hn::Set(d, decay), product = hn::Set(d, chunk.products[t]);
    const T* value = reinterpret_cast<const T*>(rule.v.data) + token * rule.v.token +
                     head * rule.v.head + static_cast<int64_t>(first) * rule.v.element;
    T* out = reinterpret_cast<T*>(rule.out.data) + token * rule.out.token + head * rule.out.head +
             static_cast<int64_t>(first) * rule.out.element;
    VF delta[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      delta[j] = hn::Zero(d);
      const size_t at = j * kFloatLanes;
      if (at >= columns) continue;
      const size_t some = HWY_MIN(kFloatLanes, columns - at);
      const VF v =
          LoadStrided(value + static_cast<int64_t>(at) * rule.v.element, rule.v.element, some);
      delta[j] = hn::Mul(beta, hn::NegMulAdd(forget, sums.key[j], v));
      // S^T q of the state that this token leaves, without a pass over it.
      const VF result = hn::MulAdd(delta[j], product, hn::Mul(forget, sums.query[j]));
      StoreStrided(result, out + static_cast<int64_t>(at) * rule.out.element, rule.out.element,
                   some);
    }
    const bool last = t + 1 == count;
    Pass<true>(state, rule.key_size, chunk.keys + t * padded, decay, delta,
               last ? chunk.zeros : chunk.keys + (t + 1) * padded,
               last ? chunk.zeros : chunk.queries + (t + 1) * padded, sums);
    if (sequence.slots != nullptr && sequence.slots[begin + t] >= 0) {
      S* slot = reinterpret_cast<S*>(rule.states) + sequence.slots[begin + t] * rule.slot_stride +
                head * rule.key_size * rule.value_size;
      StoreState(slot, state, rule.key_size, rule.value_size, first, columns);
    }
  }
}

template <class S, class T>
void Attend(const DeltaRule& rule, const DeltaSequence& sequence, int64_t head, float* scratch) {
  const size_t padded = PaddedKey(rule.key_size);
  const size_t blocks = Blocks(rule.value_size), block = rule.key_size * kColumns;
  float* states = scratch;
  float* queries = states + blocks * block;
  float* keys = queries + kChunk * padded;
  float* zeros = keys + kChunk * padded;
  const Chunk chunk{queries, keys, zeros + padded, zeros};
  for (int64_t i = 0; i < rule.key_size; ++i) zeros[i] = 0.0f;
  const int64_t of_head = head * rule.key_size * rule.value_size;
  const auto columns = [&](size_t b) {
    return HWY_MIN(kColumns, static_cast<size_t>(rule.value_size) - b * kColumns);
  };
  const S* from =
      reinterpret_cast<const S*>(rule.states) + sequence.slot * rule.slot_stride + of_head;
  for (size_t b = 0; b < blocks; ++b) {
    LoadState(states + b * block, from, rule.key_size, rule.value_size, b * kColumns, columns(b));
  }
  for (int64_t begin = 0; begin < sequence.tokens; begin += kChunk) {
    const int64_t count = HWY_MIN(kChunk, sequence.tokens - begin);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t token = sequence.first + begin + t;
      LoadRow<T>(queries + t * padded, rule.q, token, head / rule.group, rule.key_size,
                 rule.normalise, rule.epsilon, rule.scale);
      LoadRow<T>(keys + t * padded, rule.k, token, head / rule.group, rule.key_size, rule.normalise,
                 rule.epsilon, 1.0f);
      chunk.products[t] = Dot(queries + t * padded, keys + t * padded, rule.key_size);
    }
    for (size_t b = 0; b < blocks; ++b) {
      Columns<S, T>(rule, sequence, head, begin, count, chunk, states + b * block, b * kColumns);
    }
  }
  if (sequence.slots != nullptr) return;
  S* to = reinterpret_cast<S*>(rule.states) + sequence.slot * rule.slot_stride + of_head;
  for (size_t b = 0; b < blocks; ++b) {
    StoreState(to, states + b * block, rule.key_size, rule.value_size, b * kColumns, columns(b));
  }
}

}  // namespace

using BF16 = hwy::bfloat16_t;
using F16 = hwy::float16_t;

extern const GatedDeltaRuleTable gated_delta_rule_table;
const GatedDeltaRuleTable gated_delta_rule_table = {
    {Gating<float>, Gating<BF16>, Gating<F16>},
    ExpAll,
    {WidenRow<float>, WidenRow<BF16>, WidenRow<F16>},
    {Narrow<float>, Narrow<BF16>, Narrow<F16>},
    ScratchFloats,
    {{Attend<float, float>, Attend<float, BF16>, Attend<float, F16>},
     {nullptr, Attend<BF16, BF16>, nullptr},
     {nullptr, nullptr, Attend<F16, F16>}},
};

}  // namespace vk::VK_TIER
