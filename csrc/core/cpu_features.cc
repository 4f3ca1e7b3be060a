#include "core/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#include <sys/prctl.h>
#elif defined(__powerpc64__)
#include <sys/auxv.h>
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

#elif defined(__aarch64__)

// Linux, arch/arm64/include/uapi/asm/hwcap.h. Numbers: the build's C library may be older.
struct Capability {
  unsigned long type;
  int bit;
  uint64_t feature;
};
constexpr Capability kCapabilities[] = {
    {AT_HWCAP, 10, VK_FEATURE_ASIMDHP}, {AT_HWCAP, 20, VK_FEATURE_ASIMDDP},
    {AT_HWCAP2, 14, VK_FEATURE_BF16},   {AT_HWCAP2, 13, VK_FEATURE_I8MM},
    {AT_HWCAP, 22, VK_FEATURE_SVE},     {AT_HWCAP2, 12, VK_FEATURE_SVEBF16},
    {AT_HWCAP2, 9, VK_FEATURE_SVEI8MM}, {AT_HWCAP2, 1, VK_FEATURE_SVE2},
};

// Bytes of an SVE vector: the CPU's own length, or less where the system or a parent process limits
// it. Threads inherit it, so asking once is enough as long as nobody changes it meanwhile.
int SveBytes() {
  constexpr int kGetVectorLength = 51;  // PR_SVE_GET_VL
  constexpr int kLengthMask = 0xffff;
  const int answer = prctl(kGetVectorLength, 0, 0, 0, 0);
  return answer < 0 ? 0 : answer & kLengthMask;
}

uint64_t Detect() {
  uint64_t features = 0;
  for (const Capability& one : kCapabilities) {
    if (getauxval(one.type) >> one.bit & 1) features |= one.feature;
  }
  if (features & VK_FEATURE_SVE) {
    switch (SveBytes()) {
      case 16:
        return features | VK_FEATURE_SVE_VL16;
      case 32:
        return features | VK_FEATURE_SVE_VL32;
      case 64:
        return features | VK_FEATURE_SVE_VL64;
    }
  }
  return features;
}

#elif defined(__powerpc64__)

// Linux, arch/powerpc/include/uapi/asm/cputable.h: bits of AT_HWCAP2.
constexpr unsigned long kArch300 = 0x00800000, kArch31 = 0x00040000, kMma = 0x00020000;

uint64_t Detect() {
  const unsigned long bits = getauxval(AT_HWCAP2);
  uint64_t features = 0;
  if (bits & kArch300) features |= VK_FEATURE_ARCH_3_00;
  if (bits & kArch31) features |= VK_FEATURE_ARCH_3_1;
  if (bits & kMma) features |= VK_FEATURE_MMA;
  return features;
}

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
