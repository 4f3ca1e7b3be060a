#include "cpu/activation/activation.h"

#include "cpu/math.h"
#include "cpu/two_vectors.h"

namespace vk::VK_TIER {
namespace {

struct GeluQuick {
  HWY_INLINE VF operator()(VF x) const {
    return hn::Mul(x, Sigmoid(hn::Mul(x, hn::Set(DF(), 1.702f))));
  }
};

template <class T, class Activation>
void Gated(void* out, const void* gate, const void* up, size_t count) {
  T* to = static_cast<T*>(out);
  const T* x = static_cast<const T*>(gate);
  const T* y = static_cast<const T*>(up);
  const auto gated = [](VF gate, VF up) VK_INLINE_LAMBDA {
    return VF(hn::Mul(RoundTo<T>(Activation()(gate)), up));
  };
  ForTwoVectors(count, [=](size_t i, auto n) VK_INLINE_LAMBDA {
    StoreUpTo(Map(gated, LoadUpTo(x + i, n), LoadUpTo(y + i, n)), to + i, n);
  });
}

template <class T, class Activation>
void Plain(void* out, const void* input, size_t count) {
  T* to = static_cast<T*>(out);
  const T* x = static_cast<const T*>(input);
  ForTwoVectors(count, [=](size_t i, auto n) VK_INLINE_LAMBDA {
    StoreUpTo(Map(Activation(), LoadUpTo(x + i, n)), to + i, n);
  });
}

}  // namespace

#define VK_GATED(Activation) \
  {Gated<float, Activation>, Gated<hwy::bfloat16_t, Activation>, Gated<hwy::float16_t, Activation>}
#define VK_PLAIN(Activation) \
  {Plain<float, Activation>, Plain<hwy::bfloat16_t, Activation>, Plain<hwy::float16_t, Activation>}

extern const ActivationTable activation_table;
const ActivationTable activation_table = {
    VK_GATED(Silu), VK_GATED(Gelu), VK_GATED(GeluTanh), VK_PLAIN(GeluTanh), VK_PLAIN(GeluQuick),
};

}  // namespace vk::VK_TIER
