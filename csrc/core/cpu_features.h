// What the running CPU and its operating system offer, as bits.
#ifndef VLLM_KERNELS_CORE_CPU_FEATURES_H_
#define VLLM_KERNELS_CORE_CPU_FEATURES_H_

#include "core/abi.h"

// Names follow Linux's /proc/cpuinfo, which users know. X(ENUM, "name", bit)
#define VK_CPU_FEATURES(X)          \
  X(AVX2, "avx2", 0)                \
  X(FMA, "fma", 1)                  \
  X(F16C, "f16c", 2)                \
  X(BMI2, "bmi2", 3)                \
  X(AVX512F, "avx512f", 4)          \
  X(AVX512BW, "avx512bw", 5)        \
  X(AVX512CD, "avx512cd", 6)        \
  X(AVX512DQ, "avx512dq", 7)        \
  X(AVX512VL, "avx512vl", 8)        \
  X(AVX512_VNNI, "avx512_vnni", 9)  \
  X(AVX512_BF16, "avx512_bf16", 10) \
  X(AVX512_FP16, "avx512_fp16", 11) \
  X(AMX_TILE, "amx_tile", 12)       \
  X(AMX_BF16, "amx_bf16", 13)       \
  X(AMX_INT8, "amx_int8", 14)

enum vk_cpu_feature : uint64_t {
#define VK_DEFINE_FEATURE(name, text, bit) VK_FEATURE_##name = uint64_t{1} << bit,
  VK_CPU_FEATURES(VK_DEFINE_FEATURE)
#undef VK_DEFINE_FEATURE
};

extern "C" {

// Bits of vk_cpu_feature that CPU *and* operating system support: a feature whose register state
// the OS does not save (XCR0), or for which it grants no permission (AMX, arch_prctl), is off.
VK_EXPORT uint64_t vk_cpu_features(void);

// Name of the feature with bit number `bit`, or null past the last one.
VK_EXPORT const char* vk_cpu_feature_name(int32_t bit);

}  // extern "C"
#endif  // VLLM_KERNELS_CORE_CPU_FEATURES_H_
