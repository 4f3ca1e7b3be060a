#include <cmath>

#include "cpu/norm/norm.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

// Four accumulators: one would wait for the latency of each multiply-add.
template <class LoadAt>
HWY_INLINE float SumOfSquares(size_t width, const LoadAt& load_at) {
  const size_t lanes = hn::Lanes(DF());
  VF sum0 = hn::Zero(DF()), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  const auto add_square = [&](VF& sum, size_t i, size_t count) VK_INLINE_LAMBDA {
    const VF value = load_at(i, count);
    sum = hn::MulAdd(value, value, sum);
  };
  size_t i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    add_square(sum0, i, lanes);
    add_square(sum1, i + lanes, lanes);
    add_square(sum2, i + 2 * lanes, lanes);
    add_square(sum3, i + 3 * lanes, lanes);
  }
  for (; i < width; i += lanes) add_square(sum0, i, HWY_MIN(lanes, width - i));
  return hn::ReduceSum(DF(), hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)));
}

float Factor(float sum_of_squares, float epsilon, size_t width) {
  return 1.0f / std::sqrt(sum_of_squares / static_cast<float>(width) + epsilon);
}

template <class T>
void RmsNorm(void* result, const void* input, const void* weight, float epsilon, size_t width) {
  const T* in = static_cast<const T*>(input);
  const T* scale = static_cast<const T*>(weight);
  T* out = static_cast<T*>(result);
  const auto load = [in](size_t i, size_t count)
                        VK_INLINE_LAMBDA { return LoadUpTo(in + i, count); };
  const VF factor = hn::Set(DF(), Factor(SumOfSquares(width, load), epsilon, width));
  ForVectors(width, [=](size_t i, size_t count) VK_INLINE_LAMBDA {
    VF value = RoundTo<T>(hn::Mul(load(i, count), factor));
    if (scale != nullptr) value = hn::Mul(value, LoadUpTo(scale + i, count));
    StoreUpTo(value, out + i, count);
  });
}

// The sum is taken twice instead of being kept: the norm sees it unrounded, as the engine's own
// implementation does, and the row is in the L1 cache the second time.
template <class T>
void FusedAddRmsNorm(void* input, void* residual, const void* weight, float epsilon, size_t width) {
  T* in = static_cast<T*>(input);
  T* res = static_cast<T*>(residual);
  const T* scale = static_cast<const T*>(weight);
  const auto added = [in, res](size_t i, size_t count) VK_INLINE_LAMBDA {
    return hn::Add(LoadUpTo(in + i, count), LoadUpTo(res + i, count));
  };
  const VF factor = hn::Set(DF(), Factor(SumOfSquares(width, added), epsilon, width));
  ForVectors(width, [=](size_t i, size_t count) VK_INLINE_LAMBDA {
    const VF sum = added(i, count);
    VF value = RoundTo<T>(hn::Mul(sum, factor));
    if (scale != nullptr) value = hn::Mul(value, LoadUpTo(scale + i, count));
    StoreUpTo(sum, res + i, count);
    StoreUpTo(value, in + i, count);
  });
}

}  // namespace

extern const NormTable norm_table;
const NormTable norm_table = {
    {RmsNorm<float>, RmsNorm<hwy::bfloat16_t>, RmsNorm<hwy::float16_t>},
    {FusedAddRmsNorm<float>, FusedAddRmsNorm<hwy::bfloat16_t>, FusedAddRmsNorm<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
