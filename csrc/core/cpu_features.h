// What the running CPU and its operating system offer, as bits.
#ifndef VLLM_KERNELS_CORE_CPU_FEATURES_H_
#define VLLM_KERNELS_CORE_CPU_FEATURES_H_

#include "core/abi.h"

// One list for each CPU family. Names are those that users know from Linux's /proc/cpuinfo (on
// POWER, from its auxiliary vector). sve_vlN: SVE vectors of exactly N bytes. X(ENUM, "name", bit)
#if defined(__x86_64__)
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
#elif defined(__aarch64__)
#define VK_CPU_FEATURES(X)   \
  X(ASIMDHP, "asimdhp", 0)   \
  X(ASIMDDP, "asimddp", 1)   \
  X(BF16, "bf16", 2)         \
  X(I8MM, "i8mm", 3)         \
  X(SVE, "sve", 4)           \
  X(SVEBF16, "svebf16", 5)   \
  X(SVEI8MM, "svei8mm", 6)   \
  X(SVE2, "sve2", 7)         \
  X(SVE_VL16, "sve_vl16", 8) \
  X(SVE_VL32, "sve_vl32", 9) \
  X(SVE_VL64, "sve_vl64", 10)
#elif defined(__powerpc64__)
#define VK_CPU_FEATURES(X)     \
  X(ARCH_3_00, "arch_3_00", 0) \
  X(ARCH_3_1, "arch_3_1", 1)   \
  X(MMA, "mma", 2)
#else
#error "no CPU features are known for this family: add them here and in cpu_features.cc"
#endif

enum vk_cpu_feature : uint64_t {
#define VK_DEFINE_FEATURE(name, text, bit) VK_FEATURE_##name = uint64_t{1} << bit,
  VK_CPU_FEATURES(VK_DEFINE_FEATURE)
#undef VK_DEFINE_FEATURE
};

extern "C" {

// Bits of vk_cpu_feature that CPU *and* operating system support: a feature whose register state
// the OS does not save (XCR0), for which it grants no permission (AMX, arch_prctl), or which it
// does not report (getauxval on Arm and POWER), is off.
VK_EXPORT uint64_t vk_cpu_features(void);

// Name of the feature with bit number `bit`, or null past the last one.
VK_EXPORT const char* vk_cpu_feature_name(int32_t bit);

}  // extern "C"
#endif  // VLLM_KERNELS_CORE_CPU_FEATURES_H_
