// Included by every `*_tier.cc` file. Such a file is compiled once per tier with that tier's flags
// (targets.toml) and -DVK_TIER=<name>; it holds kernels only: no static initialisers, no OpenMP
// region that outlives it, no std:: containers. Threads are spread by the family's common file.
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

#define VK_TIER_NAMESPACE VK_TIER
namespace vk {
namespace VK_TIER_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
}  // namespace VK_TIER_NAMESPACE
}  // namespace vk

#endif  // VLLM_KERNELS_CPU_TIER_H_
