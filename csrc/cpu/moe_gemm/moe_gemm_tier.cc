#include "cpu/math.h"
#include "cpu/moe_gemm/moe_gemm.h"

namespace vk::VK_TIER {
namespace {

template <class T, class Activation>
void Activate(void* out, const float* gate, const float* up, size_t count, const MoeSwiglu&) {
  T* to = static_cast<T*>(out);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF value = hn::Mul(Activation()(LoadUpTo(gate + i, n)), LoadUpTo(up + i, n));
    StoreUpTo(value, to + i, n);
  });
}

template <class T>
void SwigluOai(void* out, const float* pairs, const float*, size_t count, const MoeSwiglu& swiglu) {
  const DF df;
  const VF limit = hn::Set(df, swiglu.limit), least = hn::Set(df, -swiglu.limit);
  const VF alpha = hn::Set(df, swiglu.alpha);
  T* to = static_cast<T*>(out);
  alignas(64) float gates[kFloatLanes], ups[kFloatLanes];
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    for (size_t j = 0; j < n; ++j) {
      gates[j] = pairs[2 * (i + j)];
      ups[j] = pairs[2 * (i + j) + 1];
    }
    const VF gate = AtMost(LoadUpTo(gates, n), limit);
    const VF up = AtLeast(AtMost(LoadUpTo(ups, n), limit), least);
    const VF glu = hn::Mul(gate, Sigmoid(hn::Mul(gate, alpha)));
    StoreUpTo(hn::MulAdd(up, glu, glu), to + i, n);
  });
}

template <class T>
void Combine(void* out, const float* const* rows, const float* weights, size_t row_count,
             size_t count) {
  T* to = static_cast<T*>(out);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    VF sum = hn::Zero(DF());
    for (size_t j = 0; j < row_count; ++j) {
      sum = hn::MulAdd(LoadUpTo(rows[j] + i, n), hn::Set(DF(), weights[j]), sum);
    }
    StoreUpTo(sum, to + i, n);
  });
}

}  // namespace

#define VK_BY_DTYPE(Function) {Function<float>, Function<hwy::bfloat16_t>, Function<hwy::float16_t>}
#define VK_GATED(Activation)                                           \
  {Activate<float, Activation>, Activate<hwy::bfloat16_t, Activation>, \
   Activate<hwy::float16_t, Activation>}

extern const MoeGemmTable moe_gemm_table;
const MoeGemmTable moe_gemm_table = {
    {VK_GATED(Silu), VK_GATED(Gelu), VK_GATED(GeluTanh), VK_BY_DTYPE(SwigluOai)},
    VK_BY_DTYPE(Combine),
};

}  // namespace vk::VK_TIER
