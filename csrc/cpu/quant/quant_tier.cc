#include "cpu/quant/quant.h"

#include "cpu/float8.h"
#include "cpu/math.h"

namespace vk::VK_TIER {
namespace {

using Words = hn::RebindToUnsigned<DF>;
using Bytes = hn::Rebind<uint8_t, DF>;

// int8 of integral or other values, rounded to nearest even, saturated; NaN gives 0.
HWY_INLINE hn::Vec<Bytes> ToInt8(VF value) {
  value = AtMost(AtLeast(value, hn::Set(DF(), -128.0f)), hn::Set(DF(), 127.0f));
  // The addition puts the rounded value into the low bits of the mantissa, in two's complement.
  const VF shifted = hn::Add(value, hn::Set(DF(), 12582912.0f));  // 1.5 * 2^23
  return hn::TruncateTo(Bytes(), hn::BitCast(Words(), shifted));
}

template <class T>
void Quantize(int8_t* result, const void* input, size_t width, float inverse_scale, float azp) {
  const T* in = static_cast<const T*>(input);
  uint8_t* out = reinterpret_cast<uint8_t*>(result);
  const VF factor = hn::Set(DF(), inverse_scale), zero_point = hn::Set(DF(), azp);
  ForVectors(width, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    // Rounded before the zero point is added, so that ties are those of x and not of the sum.
    const VF scaled = hn::Round(hn::Mul(LoadUpTo(in + i, n), factor));
    const auto bytes = ToInt8(hn::Add(scaled, zero_point));
    if (HWY_LIKELY(n == hn::Lanes(DF()))) {
      hn::StoreU(bytes, Bytes(), out + i);
    } else {
      hn::StoreN(bytes, Bytes(), out + i, n);
    }
  });
}

// Two accumulators hide the latency of the comparison.
template <class T>
float AbsMax(const void* input, size_t width) {
  const T* in = static_cast<const T*>(input);
  const size_t lanes = hn::Lanes(DF());
  VF max0 = hn::Zero(DF()), max1 = max0;
  size_t i = 0;
  for (; i + 2 * lanes <= width; i += 2 * lanes) {
    max0 = hn::Max(max0, hn::Abs(LoadF32(in + i)));
    max1 = hn::Max(max1, hn::Abs(LoadF32(in + i + lanes)));
  }
  for (; i < width; i += lanes) {
    max0 = hn::Max(max0, hn::Abs(LoadUpTo(in + i, HWY_MIN(lanes, width - i))));
  }
  return hn::ReduceMax(DF(), hn::Max(max0, max1));
}

template <class T>
QuantTable::Range MinMax(const void* input, size_t width) {
  const T* in = static_cast<const T*>(input);
  if (width == 0) return {0.0f, 0.0f};
  const size_t lanes = hn::Lanes(DF());
  if (width < lanes) {
    const auto present = hn::FirstN(DF(), width);
    const VF values = LoadF32N(in, width);
    const VF first = hn::BroadcastLane<0>(values);
    const VF filled = hn::IfThenElse(present, values, first);
    return {hn::ReduceMin(DF(), filled), hn::ReduceMax(DF(), filled)};
  }
  VF min0 = LoadF32(in), max0 = min0;
  // The last vector overlaps the one before it: a value may count twice here.
  VF min1 = LoadF32(in + width - lanes), max1 = min1;
  for (size_t i = lanes; i + lanes <= width; i += 2 * lanes) {
    const VF a = LoadF32(in + i), b = LoadF32(in + HWY_MIN(i + lanes, width - lanes));
    min0 = hn::Min(min0, a);
    max0 = hn::Max(max0, a);
    min1 = hn::Min(min1, b);
    max1 = hn::Max(max1, b);
  }
  return {hn::ReduceMin(DF(), hn::Min(min0, min1)), hn::ReduceMax(DF(), hn::Max(max0, max1))};
}

template <class T>
void ScaleFp8(uint8_t* result, const void* input, size_t width, const float* factors,
              bool by_column) {
  const T* in = static_cast<const T*>(input);
  if (by_column) {
    ForVectors(width, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
      StoreFloat8<E4m3>(hn::Mul(LoadUpTo(in + i, n), LoadUpTo(factors + i, n)), result + i, n);
    });
    return;
  }
  const VF factor = hn::Set(DF(), factors[0]);
  ForVectors(width, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    StoreFloat8<E4m3>(hn::Mul(LoadUpTo(in + i, n), factor), result + i, n);
  });
}

template <class T>
void DivideFp8(uint8_t* result, const void* input, size_t width, float scale) {
  const T* in = static_cast<const T*>(input);
  const VF divisor = hn::Set(DF(), scale);
  ForVectors(width, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    StoreFloat8<E4m3>(hn::Div(LoadUpTo(in + i, n), divisor), result + i, n);
  });
}

using hwy::bfloat16_t;
using hwy::float16_t;

}  // namespace

extern const QuantTable quant_table;
const QuantTable quant_table = {
    {Quantize<float>, Quantize<bfloat16_t>, Quantize<float16_t>},
    {AbsMax<float>, AbsMax<bfloat16_t>, AbsMax<float16_t>},
    {MinMax<float>, MinMax<bfloat16_t>, MinMax<float16_t>},
    {ScaleFp8<float>, ScaleFp8<bfloat16_t>, ScaleFp8<float16_t>},
    {DivideFp8<float>, DivideFp8<bfloat16_t>, DivideFp8<float16_t>},
};

}  // namespace vk::VK_TIER
