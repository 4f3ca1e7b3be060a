#include "cpu/moe_routing/moe_routing.h"

#include "cpu/softplus.h"

namespace vk::VK_TIER {
namespace {

HWY_INLINE VF FiniteOrZero(VF x) { return hn::IfThenElseZero(hn::IsFinite(x), x); }

struct OfSigmoid {
  HWY_INLINE VF operator()(VF x) const { return Sigmoid(x); }
};

struct OfSqrtSoftplus {
  HWY_INLINE VF operator()(VF x) const { return hn::Sqrt(Softplus(x)); }
};

template <class Function, class T>
void Score(float* scores, const void* logits, size_t count) {
  const T* from = static_cast<const T*>(logits);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    StoreUpTo(FiniteOrZero(Function()(LoadUpTo(from + i, n))), scores + i, n);
  });
}

// Values behind a row's end do not count for the largest, nor for the sum.
HWY_INLINE VF Or(VF values, size_t count, VF otherwise) {
  if (HWY_LIKELY(count == hn::Lanes(DF()))) return values;
  return hn::IfThenElse(hn::FirstN(DF(), count), values, otherwise);
}

template <class T>
void Softmax(float* scores, const void* logits, size_t count) {
  const T* from = static_cast<const T*>(logits);
  const VF lowest = hn::Set(DF(), -hn::GetLane(hn::Inf(DF())));
  VF most = lowest, sum = hn::Zero(DF());
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    most = AtLeast(Or(LoadUpTo(from + i, n), n, lowest), most);
  });
  const VF top = hn::Set(DF(), hn::ReduceMax(DF(), most));
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF e = ExpOfNegative(hn::Sub(LoadUpTo(from + i, n), top));
    sum = hn::Add(sum, Or(e, n, hn::Zero(DF())));
    StoreUpTo(e, scores + i, n);
  });
  const VF total = hn::Set(DF(), hn::ReduceSum(DF(), sum));
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    StoreUpTo(FiniteOrZero(hn::Div(LoadUpTo(scores + i, n), total)), scores + i, n);
  });
}

template <class T>
void Rank(float* ranks, const float* scores, const void* bias, size_t count) {
  const T* added = static_cast<const T*>(bias);
  const VF lowest = hn::Set(DF(), -hn::GetLane(hn::Inf(DF())));
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF sum = hn::Add(LoadUpTo(scores + i, n), LoadUpTo(added + i, n));
    StoreUpTo(VF(hn::IfThenElse(hn::IsNaN(sum), lowest, sum)), ranks + i, n);
  });
}

}  // namespace

extern const MoeRoutingTable moe_routing_table;
const MoeRoutingTable moe_routing_table = {
    {{Score<OfSigmoid, float>, Score<OfSigmoid, hwy::bfloat16_t>, Score<OfSigmoid, hwy::float16_t>},
     {Score<OfSqrtSoftplus, float>, Score<OfSqrtSoftplus, hwy::bfloat16_t>,
      Score<OfSqrtSoftplus, hwy::float16_t>},
     {Softmax<float>, Softmax<hwy::bfloat16_t>, Softmax<hwy::float16_t>}},
    {Rank<float>, Rank<hwy::bfloat16_t>, Rank<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
