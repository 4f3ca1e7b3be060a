// Run-time choice of the instruction-set tier.
//
// Every family has a table of function pointers (norm/norm.h: NormTable ...) which `*_tier.cc`
// fills once per tier. A tier's objects are linked into one island (cmake/Tiers.cmake) whose only
// global symbol is its TierTable, so no instruction above the package's floor can leak into common
// code through a shared inline function.
#ifndef VLLM_KERNELS_CPU_DISPATCH_H_
#define VLLM_KERNELS_CPU_DISPATCH_H_

#include "core/abi.h"

namespace vk {

#define VK_CPU_FAMILY(family, Table) struct Table;
#include "cpu/generated/families.inc"
#undef VK_CPU_FAMILY

// A null member: the tier has no kernels for that family, and the next lower tier serves it.
struct TierTable {
#define VK_CPU_FAMILY(family, Table) const Table* family;
#include "cpu/generated/families.inc"
#undef VK_CPU_FAMILY
};

// The tables of the active tier, merged with what lower tiers provide. Thread-safe, cheap.
// Throws Error(VK_UNSUPPORTED) where the CPU is below the library's floor, or when
// VLLM_KERNELS_CPU_ISA names an unknown tier or one that this CPU cannot run.
const TierTable& Kernels();

}  // namespace vk

extern "C" {

// Name of the active tier, such as "avx512_bf16"; null with vk_last_error() set on failure.
VK_EXPORT const char* vk_cpu_isa(void);

// Forces a tier for this process (testing); null or "" goes back to the best one. The environment
// variable VLLM_KERNELS_CPU_ISA does the same at start.
VK_EXPORT vk_status vk_cpu_set_isa(const char* name);

// Name of the tier number `index` (0 is the lowest) of this library; null past the last one.
// `*runnable` says whether this CPU and OS can run it.
VK_EXPORT const char* vk_cpu_tier(int32_t index, int32_t* runnable);

}  // extern "C"
#endif  // VLLM_KERNELS_CPU_DISPATCH_H_
