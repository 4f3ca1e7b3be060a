// Vectors of elements that may lie apart, for `*_tier.cc` files.
#ifndef VLLM_KERNELS_CPU_STRIDED_H_
#define VLLM_KERNELS_CPU_STRIDED_H_

#include "cpu/vec.h"

namespace vk::VK_TIER {

// The `count` elements from[0], from[stride], ... as float32; the rest of the vector is zero.
template <class T>
HWY_INLINE VF LoadStrided(const T* from, ptrdiff_t stride, size_t count) {
  if (HWY_LIKELY(stride == 1)) return LoadUpTo(from, count);
  T near[kFloatLanes] = {};
  for (size_t i = 0; i < count; ++i) {
    __builtin_memcpy(near + i, from + static_cast<ptrdiff_t>(i) * stride, sizeof(T));
  }
  return LoadF32N(near, count);
}

template <class T>
HWY_INLINE void StoreStrided(VF value, T* to, ptrdiff_t stride, size_t count) {
  if (HWY_LIKELY(stride == 1)) {
    StoreUpTo(value, to, count);
    return;
  }
  T near[kFloatLanes] = {};
  StoreF32N(value, near, count);
  for (size_t i = 0; i < count; ++i) {
    __builtin_memcpy(to + static_cast<ptrdiff_t>(i) * stride, near + i, sizeof(T));
  }
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_STRIDED_H_
