// Sums to rows of c: scales, zero points, bias, rounding.
#include "cpu/gemm/gemm_tier.h"

namespace vk::VK_TIER {
namespace {

using DI = hn::Rebind<int32_t, DF>;

template <class T>
HWY_INLINE VF BiasUpTo(const T* bias, size_t column, size_t count) {
  return bias == nullptr ? VF(hn::Zero(DF())) : LoadUpTo(bias + column, count);
}

// Calls body(column, count) for every vector of `columns`; all but the last are full.
template <class Body>
HWY_INLINE void ForColumns(size_t columns, const Body& body) {
  const size_t lanes = hn::Lanes(DF());
  for (size_t column = 0; column < columns; column += lanes) {
    body(column, HWY_MIN(lanes, columns - column));
  }
}

}  // namespace

template <class T>
void GemmFinishFloat(const GemmFinish& finish) {
  const T* bias = static_cast<const T*>(finish.bias);
  for (size_t row = 0; row < finish.rows; ++row) {
    const float* sums = static_cast<const float*>(finish.sums) + row * kPanel;
    T* c = static_cast<T*>(finish.c) + row * finish.c_stride;
    ForColumns(finish.columns, [&](size_t column, size_t count) {
      const VF sum = hn::LoadU(DF(), sums + column);
      StoreUpTo(hn::Add(sum, BiasUpTo(bias, column, count)), c + column, count);
    });
  }
}

// The arrays per column are padded to whole panels, so only bias and c need masks.
template <class T>
void GemmFinishScaled(const GemmFinish& finish) {
  const DF df;
  const DI di;
  const T* bias = static_cast<const T*>(finish.bias);
  const auto shift = hn::Set(di, finish.a_shift);
  for (size_t row = 0; row < finish.rows; ++row) {
    const int32_t* sums = static_cast<const int32_t*>(finish.sums) + row * kPanel;
    T* c = static_cast<T*>(finish.c) + row * finish.c_stride;
    const VF a_scale = hn::Set(df, finish.a_scales[row * finish.a_scale_stride]);
    const bool has_azp = finish.azp != nullptr;
    const VF azp =
        hn::Set(df, has_azp ? static_cast<float>(finish.azp[row * finish.azp_stride]) : 0.0f);
    ForColumns(finish.columns, [&](size_t column, size_t count) {
      auto sum = hn::LoadU(di, sums + column);
      if (finish.a_shift != 0) {
        sum = hn::Sub(sum, hn::Mul(shift, hn::LoadU(di, finish.b_sums + column)));
      }
      VF value = hn::Mul(hn::ConvertTo(df, sum), hn::LoadU(df, finish.b_scales + column));
      if (has_azp) value = hn::NegMulAdd(azp, hn::LoadU(df, finish.azp_adj + column), value);
      value = hn::MulAdd(value, a_scale, BiasUpTo(bias, column, count));
      StoreUpTo(value, c + column, count);
    });
  }
}

template void GemmFinishFloat<float>(const GemmFinish&);
template void GemmFinishFloat<hwy::bfloat16_t>(const GemmFinish&);
template void GemmFinishFloat<hwy::float16_t>(const GemmFinish&);
template void GemmFinishScaled<float>(const GemmFinish&);
template void GemmFinishScaled<hwy::bfloat16_t>(const GemmFinish&);
template void GemmFinishScaled<hwy::float16_t>(const GemmFinish&);

}  // namespace vk::VK_TIER
