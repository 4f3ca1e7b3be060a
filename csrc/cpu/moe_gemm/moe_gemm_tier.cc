#include "cpu/math.h"
#include "cpu/moe_gemm/moe_gemm.h"

namespace vk::VK_TIER {
namespace {

template <class T, class Activation>
void Activate(void* out, const float* gate, const float* up, size_t count) {
  T* to = static_cast<T*>(out);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF value = hn::Mul(Activation()(LoadUpTo(gate + i, n)), LoadUpTo(up + i, n));
    StoreUpTo(value, to + i, n);
  });
}

template <class T>
void SwigluOai(void* out, const float* pairs, const float*, size_t count) {
  const DF df;
  const VF limit = hn::Set(df, 7.0f), least = hn::Set(df, -7.0f);
  T* to = static_cast<T*>(out);
  alignas(64) float gates[kFloatLanes], ups[kFloatLanes];
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    for (size_t j = 0; j < n; ++j) {
      gates[j] = pairs[2 * (i + j)];
      ups[j] = pairs[2 * (i + j) + 1];
    }
    const VF gate = AtMost(LoadUpTo(gates, n), limit);
    const VF up = AtLeast(AtMost(LoadUpTo(ups, n), limit), least);
    const VF glu = hn::Mul(gate, Sigmoid(hn::Mul(gate, hn::Set(df, 1.702f))));
    StoreUpTo(hn::MulAdd(up, glu, glu), to + i, n);
  });
}

template <class T>
void AddBias(float* sums, size_t stride, size_t rows, const void* bias, size_t count) {
  const T* from = static_cast<const T*>(bias);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF value = LoadUpTo(from + i, n);
    for (size_t row = 0; row < rows; ++row) {
      float* to = sums + row * stride + i;
      StoreUpTo(hn::Add(LoadUpTo(to, n), value), to, n);
    }
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
    VK_BY_DTYPE(AddBias),
    VK_BY_DTYPE(Combine),
};

}  // namespace vk::VK_TIER
