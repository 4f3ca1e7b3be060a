#include "core/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#if defined(__x86_64__)

// Intel SDM vol. 1, 13.1: the state components that XCR0 must enable.
constexpr uint64_t kXcr0Avx = 0x6;      // SSE, AVX
constexpr uint64_t kXcr0Avx512 = 0xe6;  // + opmask, ZMM_Hi256, Hi16_ZMM
constexpr uint64_t kXcr0Amx = 0x60000;  // XTILECFG, XTILEDATA

uint64_t ReadXcr0() {
  uint32_t low, high;
  // Not _xgetbv(): that needs -mxsave, and this file is compiled for the package's floor.
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool RequestAmx() {
  // Linux grants the tile registers per process on request (Documentation/arch/x86/xstate.rst).
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtiledata = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
}

uint64_t Detect() {
  uint32_t eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 0;
  const bool osxsave = ecx & (1u << 27);
  if (!osxsave) return 0;
  const uint64_t xcr0 = ReadXcr0();
  if ((xcr0 & kXcr0Avx) != kXcr0Avx) return 0;

  uint64_t features = 0;
  const auto add = [&](bool present, uint64_t feature) { features |= present ? feature : 0; };
  add(ecx & (1u << 12), VK_FEATURE_FMA);
  add(ecx & (1u << 29), VK_FEATURE_F16C);
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
  const uint32_t max_subleaf = eax;
  add(ebx & (1u << 5), VK_FEATURE_AVX2);
  add(ebx & (1u << 8), VK_FEATURE_BMI2);
  const bool avx512 = (xcr0 & kXcr0Avx512) == kXcr0Avx512;
  if (avx512) {
    add(ebx & (1u << 16), VK_FEATURE_AVX512F);
    add(ebx & (1u << 17), VK_FEATURE_AVX512DQ);
    add(ebx & (1u << 28), VK_FEATURE_AVX512CD);
    add(ebx & (1u << 30), VK_FEATURE_AVX512BW);
    add(ebx & (1u << 31), VK_FEATURE_AVX512VL);
    add(ecx & (1u << 11), VK_FEATURE_AVX512_VNNI);
    add(edx & (1u << 23), VK_FEATURE_AVX512_FP16);
  }
  const bool amx_bf16 = edx & (1u << 22), amx_tile = edx & (1u << 24), amx_int8 = edx & (1u << 25);
  if (amx_tile && (xcr0 & kXcr0Amx) == kXcr0Amx && RequestAmx()) {
    add(true, VK_FEATURE_AMX_TILE);
    add(amx_bf16, VK_FEATURE_AMX_BF16);
    add(amx_int8, VK_FEATURE_AMX_INT8);
  }
  if (avx512 && max_subleaf >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) {
    add(eax & (1u << 5), VK_FEATURE_AVX512_BF16);
  }
  return features;
}

#else

uint64_t Detect() { return 0; }

#endif

}  // namespace

extern "C" uint64_t vk_cpu_features(void) {
  static const uint64_t features = Detect();
  return features;
}

extern "C" const char* vk_cpu_feature_name(int32_t bit) {
  switch (bit) {
#define VK_FEATURE_CASE(name, text, number) \
  case number:                              \
    return text;
    VK_CPU_FEATURES(VK_FEATURE_CASE)
#undef VK_FEATURE_CASE
    default:
      return nullptr;
  }
}
