// One step of the online softmax (Milakov and Gimelshein 2018), for `*_tier.cc` files: logits of a
// range of keys become probabilities relative to the running maximum.
#ifndef VLLM_KERNELS_CPU_ATTENTION_SOFTMAX_H_
#define VLLM_KERNELS_CPU_ATTENTION_SOFTMAX_H_

#include "cpu/attention/micro.h"
#include "cpu/attention/tile.h"

namespace vk::VK_TIER {

using DI = hn::Rebind<int32_t, DF>;

enum class LogitKind { kPlain, kMasked, kGeneral };  // general ones are masked too

// The least work that is right for keys [first, first + count).
HWY_INLINE LogitKind KindOf(const LogitRule& rule, const Tile& tile, int32_t first, int32_t count) {
  if (rule.general) return LogitKind::kGeneral;
  const bool inside = tile.all_begin <= first && first + count <= tile.all_end;
  return inside ? LogitKind::kPlain : LogitKind::kMasked;
}

// Masked where the key is not in [lowest, end).
HWY_INLINE VF MaskKeys(VF logit, hn::Vec<DI> key, hn::Vec<DI> lowest, hn::Vec<DI> end) {
  const DF d;
  const auto visible = hn::AndNot(hn::VecFromMask(DI(), hn::Lt(key, lowest)),
                                  hn::VecFromMask(DI(), hn::Lt(key, end)));
  return hn::IfThenElse(hn::RebindMask(d, hn::MaskFromVec(visible)), logit, hn::Set(d, -kInfinity));
}

// A row that has seen no key yet has the maximum -inf; subtracting 0 instead avoids inf - inf.
HWY_INLINE VF FiniteMax(VF max) {
  return hn::IfThenZeroElse(hn::Eq(max, hn::Set(DF(), -kInfinity)), max);
}

// Where the probabilities go: as floats in place of the logits ...
struct FloatProbabilities {
  static constexpr Exp2Error kError = Exp2Error::kFloat;
  float* to;
  size_t ld;
  HWY_INLINE void Put(int32_t key, int32_t row, VF first, VF second, bool two) const {
    hn::StoreU(first, DF(), to + key * ld + row);
    if (two) hn::StoreU(second, DF(), to + (key + 1) * ld + row);
  }
};

#ifdef __AVX512BF16__
// ... or as pairs of bfloat16 of consecutive keys.
struct PairProbabilities {
  static constexpr Exp2Error kError = Exp2Error::kBfloat16;
  uint32_t* to;
  size_t ld;
  HWY_INLINE void Put(int32_t key, int32_t row, VF first, VF second, bool) const {
    const __m256i low = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(first.raw));
    const __m256i high = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(second.raw));
    const __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                          _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    _mm512_storeu_si512(to + (key / 2) * ld + row, pairs);
  }
};
#endif

// Lanes are rows: `logits` [count][ld], kLanes rows from `row`.
template <LogitKind kKind, class Probabilities>
HWY_INLINE void SoftmaxOfLanes(const LogitRule& rule, const Tile& tile, float* logits, size_t ld,
                               int32_t row, int32_t first, int32_t count, const Probabilities& to) {
  const DF d;
  const VF old_max = hn::LoadU(d, tile.max + row);
  VF top = hn::Set(d, -kInfinity);
  const auto lowest = hn::LoadU(DI(), tile.lowest + row), end = hn::LoadU(DI(), tile.end + row);
  const VF slope = hn::LoadU(d, tile.slope + row), position = hn::LoadU(d, tile.position + row);
  for (int32_t i = 0; i < count; ++i) {
    VF x = hn::LoadU(d, logits + i * ld + row);
    if constexpr (kKind == LogitKind::kGeneral) {
      x = rule.Apply(x, slope, hn::Sub(hn::Set(d, static_cast<float>(first + i)), position));
    }
    if constexpr (kKind != LogitKind::kPlain) {
      x = MaskKeys(x, hn::Set(DI(), first + i), lowest, end);
      hn::StoreU(x, d, logits + i * ld + row);
    }
    top = hn::Max(top, x);
  }
  const VF factor = hn::Set(d, kKind == LogitKind::kGeneral ? 1.0f : rule.factor);
  const VF max = hn::Max(old_max, hn::Mul(top, factor));
  const VF base = FiniteMax(max);
  const VF correction = Exp2(hn::Sub(old_max, base));
  VF sum = hn::Mul(hn::LoadU(d, tile.sum + row), correction);
  for (int32_t i = 0; i < count; i += 2) {
    const bool two = i + 1 < count;
    const auto exp2 = [&](int32_t at) {
      return Exp2<Probabilities::kError>(
          hn::MulSub(hn::LoadU(d, logits + at * ld + row), factor, base));
    };
    const VF p0 = exp2(i), p1 = two ? exp2(i + 1) : VF(hn::Zero(d));
    sum = hn::Add(sum, hn::Add(p0, p1));
    to.Put(i, row, p0, p1, two);
  }
  hn::StoreU(max, d, tile.max + row);
  hn::StoreU(sum, d, tile.sum + row);
  hn::StoreU(correction, d, tile.correction + row);
}

template <LogitKind kKind, class Probabilities>
void SoftmaxOfColumns(const LogitRule& rule, const Tile& tile, float* logits, size_t ld,
                      int32_t first, int32_t count, const Probabilities& to) {
  for (int32_t row = 0; row < tile.padded_rows; row += kLanes) {
    SoftmaxOfLanes<kKind>(rule, tile, logits, ld, row, first, count, to);
  }
}

// logits [count][ld], a column for each of the tile's padded rows.
template <class Probabilities>
void SoftmaxColumns(const LogitRule& rule, const Tile& tile, float* logits, size_t ld,
                    int32_t first, int32_t count, const Probabilities& to) {
  switch (KindOf(rule, tile, first, count)) {
    case LogitKind::kPlain:
      return SoftmaxOfColumns<LogitKind::kPlain>(rule, tile, logits, ld, first, count, to);
    case LogitKind::kMasked:
      return SoftmaxOfColumns<LogitKind::kMasked>(rule, tile, logits, ld, first, count, to);
    case LogitKind::kGeneral:
      return SoftmaxOfColumns<LogitKind::kGeneral>(rule, tile, logits, ld, first, count, to);
  }
}

// Lanes are keys: the logits of one row, of which all up to a full vector are readable.
template <LogitKind kKind>
HWY_INLINE void SoftmaxOfRow(const LogitRule& rule, const Tile& tile, float* logits, int32_t row,
                             int32_t first, int32_t count) {
  const DF d;
  const auto lowest = hn::Set(DI(), tile.lowest[row]);
  const auto end = hn::Set(DI(), HWY_MIN(tile.end[row], first + count));
  const VF slope = hn::Set(d, tile.slope[row]), position = hn::Set(d, tile.position[row]);
  VF top = hn::Set(d, -kInfinity);
  for (int32_t i = 0; i < count; i += kLanes) {
    VF x = hn::LoadU(d, logits + i);
    const auto key = hn::Iota(DI(), first + i);
    if constexpr (kKind == LogitKind::kGeneral) {
      x = rule.Apply(x, slope, hn::Sub(hn::ConvertTo(d, key), position));
    }
    if constexpr (kKind != LogitKind::kPlain) {
      x = MaskKeys(x, key, lowest, end);
      hn::StoreU(x, d, logits + i);
    }
    top = hn::Max(top, x);
  }
  const VF factor = hn::Set(d, kKind == LogitKind::kGeneral ? 1.0f : rule.factor);
  const VF old_max = hn::Set(d, tile.max[row]);
  const VF max = hn::Max(old_max, hn::Mul(hn::MaxOfLanes(d, top), factor));
  const VF base = FiniteMax(max);
  const float correction = hn::GetLane(Exp2(hn::Sub(old_max, base)));
  VF sum = hn::Zero(d);
  for (int32_t i = 0; i < count; i += kLanes) {
    const VF p = Exp2(hn::MulSub(hn::LoadU(d, logits + i), factor, base));
    sum = hn::Add(sum, p);
    hn::StoreU(p, d, logits + i);
  }
  tile.max[row] = hn::GetLane(max);
  tile.sum[row] = tile.sum[row] * correction + hn::ReduceSum(d, sum);
  tile.correction[row] = correction;
}

// logits [tile.rows][ld], `ld` a multiple of the vector.
inline void SoftmaxRows(const LogitRule& rule, const Tile& tile, float* logits, size_t ld,
                        int32_t first, int32_t count) {
  LogitKind kind = KindOf(rule, tile, first, count);
  if (kind == LogitKind::kPlain && count % kLanes != 0) kind = LogitKind::kMasked;
  for (int32_t row = 0; row < tile.rows; ++row, logits += ld) {
    if (kind == LogitKind::kPlain) {
      SoftmaxOfRow<LogitKind::kPlain>(rule, tile, logits, row, first, count);
    } else if (kind == LogitKind::kMasked) {
      SoftmaxOfRow<LogitKind::kMasked>(rule, tile, logits, row, first, count);
    } else {
      SoftmaxOfRow<LogitKind::kGeneral>(rule, tile, logits, row, first, count);
    }
  }
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_SOFTMAX_H_
