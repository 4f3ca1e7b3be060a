#include "cpu/sampling/sampling.h"

#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

using DI = hn::RebindToSigned<DF>;
using VI = hn::Vec<DI>;

// `value`, `place`: the best value of each lane and where it stood. No structure holds them, since
// vectors of SVE have no size.
HWY_INLINE void Take(VF candidate, VI where, VF& value, VI& place) {
  const auto better = hn::Gt(candidate, value);
  value = hn::IfThenElse(better, candidate, value);
  place = hn::IfThenElse(hn::RebindMask(DI(), better), where, place);
}

// The first place of the largest value of all lanes.
HWY_INLINE Largest Reduce(VF value, VI place) {
  const float most = hn::ReduceMax(DF(), value);
  const auto equal = hn::RebindMask(DI(), hn::Eq(value, hn::Set(DF(), most)));
  const VI first = hn::IfThenElse(equal, place, hn::Set(DI(), hwy::LimitsMax<int32_t>()));
  return {most, static_cast<size_t>(hn::ReduceMin(DI(), first))};
}

// Values that the lanes behind a row's end do not have.
HWY_INLINE VF Present(VF values, size_t count, float otherwise) {
  if (HWY_LIKELY(count == hn::Lanes(DF()))) return values;
  return hn::IfThenElse(hn::FirstN(DF(), count), values, hn::Set(DF(), otherwise));
}

Largest FindLargest(const float* values, size_t count) {
  const float lowest = -hwy::HighestValue<float>();
  const VF none = hn::Set(DF(), -hn::GetLane(hn::Inf(DF())));
  VF value = none;
  VI place = hn::Zero(DI());
  auto nan = hn::MaskFalse(DF());
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF x = Present(LoadUpTo(values + i, n), n, lowest);
    nan = hn::Or(nan, hn::IsNaN(x));
    // A lane behind the end is below a finite value, and loses to -inf only by its place.
    const VF candidate = Present(x, n, hn::GetLane(none));
    Take(candidate, hn::Iota(DI(), static_cast<int32_t>(i)), value, place);
  });
  if (HWY_UNLIKELY(!hn::AllFalse(DF(), nan))) {
    size_t i = 0;
    while (values[i] == values[i]) ++i;
    return {values[i], i};
  }
  return Reduce(value, place);
}

Largest FindLargestRest(const float* target, const float* draft, const float* factor,
                        size_t count) {
  const VF zero = hn::Zero(DF());
  VF value = hn::Set(DF(), -1.0f);
  VI place = hn::Zero(DI());
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    VF rest = LoadUpTo(target + i, n);
    if (draft != nullptr) {
      rest = hn::Sub(rest, LoadUpTo(draft + i, n));
      // NaN counts as nothing left, which hn::ZeroIfNegative would make depend on its sign.
      rest = hn::IfThenElseZero(hn::Gt(rest, zero), rest);
    }
    const VF score = hn::Mul(rest, LoadUpTo(factor + i, n));
    Take(Present(score, n, -2.0f), hn::Iota(DI(), static_cast<int32_t>(i)), value, place);
  });
  return Reduce(value, place);
}

}  // namespace

extern const SamplingTable sampling_table;
const SamplingTable sampling_table = {FindLargest, FindLargestRest};

}  // namespace vk::VK_TIER
