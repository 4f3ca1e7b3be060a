// Included by every `*_tier.cc` file. Such a file is compiled once for each tier, with the tier's
// flags (targets.toml) and -DVK_TIER=<name>. It holds kernels only: no static initialisers, no
// OpenMP region, no std:: containers. The family's common file spreads the work over threads.
#ifndef VLLM_KERNELS_CPU_TIER_H_
#define VLLM_KERNELS_CPU_TIER_H_

#if !defined(VK_TIER)
#error "a *_tier.cc file is compiled once per tier with -DVK_TIER=<name>; see cmake/Tiers.cmake"
#endif

// The tier's flags decide the target, so Highway needs no dispatch of its own and no library.
#define HWY_COMPILE_ONLY_STATIC
// x86-64-v3 and v4 promise neither AES nor PCLMUL, and no kernel uses them.
#define HWY_DISABLE_PCLMUL_AES
#include "hwy/highway.h"

#if defined(__ARM_FEATURE_SVE)
#if __ARM_FEATURE_SVE_BITS == 0
#error "SVE tiers are compiled for one vector length each (-msve-vector-bits): see Sized in vec.h"
#endif
// Highway's own SVE vectors have no size. It has to be told the element type of the sized ones.
HWY_BEFORE_NAMESPACE();
namespace hwy {
namespace HWY_NAMESPACE {
#define VK_SIZED_VECTOR(type)                                                                     \
  typedef sv##type##_t sized_##type __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS))); \
  template <>                                                                                     \
  struct DFromV_t<sized_##type> : DFromV_t<sv##type##_t> {};                                      \
  template <class V>                                                                              \
  struct SizedVector;
VK_SIZED_VECTOR(float32)
VK_SIZED_VECTOR(float64)
VK_SIZED_VECTOR(int32)
VK_SIZED_VECTOR(uint32)
VK_SIZED_VECTOR(int16)
VK_SIZED_VECTOR(uint16)
VK_SIZED_VECTOR(int8)
VK_SIZED_VECTOR(uint8)
#undef VK_SIZED_VECTOR
}  // namespace HWY_NAMESPACE
}  // namespace hwy
HWY_AFTER_NAMESPACE();
#endif

namespace vk::VK_TIER {
namespace hn = hwy::HWY_NAMESPACE;
}  // namespace vk::VK_TIER

#endif  // VLLM_KERNELS_CPU_TIER_H_
