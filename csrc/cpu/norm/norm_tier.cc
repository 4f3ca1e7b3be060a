#include <cfloat>
#include <cmath>

#include "cpu/norm/norm.h"
#include "cpu/two_vectors.h"

namespace vk::VK_TIER {
namespace {

struct Add {
  HWY_INLINE VF operator()(VF x) const { return x; }
  HWY_INLINE VF operator()(VF x, VF y) const { return hn::Add(x, y); }
};
struct Multiply {
  HWY_INLINE VF operator()(VF x, VF y) const { return hn::Mul(x, y); }
};

// Of the sum of `in`. Four accumulators: one would wait for the latency of each multiply-add.
template <class... In>
HWY_INLINE float SumOfSquares(size_t width, const In*... in) {
  constexpr size_t kTwo = 2 * kFloatLanes;
  VF sum0 = hn::Zero(DF()), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto add_squares = [&](VF& first, VF& second, size_t i) VK_INLINE_LAMBDA {
    const TwoVectors values = Map(Add(), LoadUpTo(in + i, Two())...);
    first = hn::MulAdd(values.first, values.first, first);
    second = hn::MulAdd(values.second, values.second, second);
  };
  size_t i = 0;
  for (; i + 2 * kTwo <= width; i += 2 * kTwo) {
    add_squares(sum0, sum1, i);
    add_squares(sum2, sum3, i + kTwo);
  }
  for (; i < width; i += kFloatLanes) {
    const size_t count = HWY_MIN(kFloatLanes, width - i);
    const VF value = Map(Add(), LoadUpTo(in + i, count)...);
    sum0 = hn::MulAdd(value, value, sum0);
  }
  return hn::ReduceSum(DF(), hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)));
}

float Factor(float sum_of_squares, float epsilon, size_t width) {
  return 1.0f / std::sqrt(sum_of_squares / static_cast<float>(width) + epsilon);
}

// A value times the row's factor, rounded. kNumbers: it is no NaN.
template <class T, bool kNumbers>
struct Scaled {
  HWY_INLINE VF operator()(VF value) const {
    const VF scaled = hn::Mul(value, factor);
    return kNumbers ? RoundNumberTo<T>(scaled) : RoundTo<T>(scaled);
  }
  VF factor;
};

// Calls body(scaled) for a row with this factor.
template <class T, class Body>
HWY_INLINE void WithScaled(float factor, const Body& body) {
  // The factor of a row with a NaN is one; that of a row with an infinity is 0.
  if (HWY_LIKELY(factor > 0.0f && factor <= FLT_MAX)) {
    body(Scaled<T, true>{hn::Set(DF(), factor)});
  } else {
    body(Scaled<T, false>{hn::Set(DF(), factor)});
  }
}

template <class T>
void RmsNorm(void* result, const void* input, const void* weight, float epsilon, size_t width) {
  const T* in = static_cast<const T*>(input);
  const T* scale = static_cast<const T*>(weight);
  T* out = static_cast<T*>(result);
  WithScaled<T>(Factor(SumOfSquares(width, in), epsilon, width), [=](auto scaled) {
    ForTwoVectors(width, [=](size_t i, auto count) VK_INLINE_LAMBDA {
      auto value = Map(scaled, LoadUpTo(in + i, count));
      if (scale != nullptr) value = Map(Multiply(), value, LoadUpTo(scale + i, count));
      StoreUpTo(value, out + i, count);
    });
  });
}

// The sum is taken twice instead of being kept: the norm sees it unrounded, as the engine's own
// implementation does, and the row is in the L1 cache the second time.
template <class T>
void FusedAddRmsNorm(void* input, void* residual, const void* weight, float epsilon, size_t width) {
  T* in = static_cast<T*>(input);
  T* res = static_cast<T*>(residual);
  const T* scale = static_cast<const T*>(weight);
  const float sum_of_squares =
      SumOfSquares(width, static_cast<const T*>(in), static_cast<const T*>(res));
  WithScaled<T>(Factor(sum_of_squares, epsilon, width), [=](auto scaled) {
    ForTwoVectors(width, [=](size_t i, auto count) VK_INLINE_LAMBDA {
      const auto sum = Map(Add(), LoadUpTo(in + i, count), LoadUpTo(res + i, count));
      auto value = Map(scaled, sum);
      if (scale != nullptr) value = Map(Multiply(), value, LoadUpTo(scale + i, count));
      StoreUpTo(sum, res + i, count);
      StoreUpTo(value, in + i, count);
    });
  });
}

}  // namespace

extern const NormTable norm_table;
const NormTable norm_table = {
    {RmsNorm<float>, RmsNorm<hwy::bfloat16_t>, RmsNorm<hwy::float16_t>},
    {FusedAddRmsNorm<float>, FusedAddRmsNorm<hwy::bfloat16_t>, FusedAddRmsNorm<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
