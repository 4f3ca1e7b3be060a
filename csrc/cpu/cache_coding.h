// How the cache holds keys and values: the engine's `kv_cache_dtype`.
#ifndef VLLM_KERNELS_CPU_CACHE_CODING_H_
#define VLLM_KERNELS_CPU_CACHE_CODING_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/check.h"

namespace vk {

enum CacheCoding : int32_t { kCachePlain, kCacheE4m3, kCacheE5m2 };

// "fp8" is "fp8_e4m3"; a name of 16 or 32 bits says what the tensor's dtype says too.
inline CacheCoding CodingOf(const char* op, const char* name) {
  VK_CHECK(name != nullptr, "%s: kv_cache_dtype is missing", op);
  for (const char* plain : {"auto", "bfloat16", "float16", "float32"}) {
    if (std::strcmp(name, plain) == 0) return kCachePlain;
  }
  if (std::strcmp(name, "fp8") == 0 || std::strcmp(name, "fp8_e4m3") == 0) return kCacheE4m3;
  if (std::strcmp(name, "fp8_e5m2") == 0) return kCacheE5m2;
  Fail(VK_UNSUPPORTED,
       "%s: kv_cache_dtype is \"%s\", want auto, fp8, fp8_e4m3 or fp8_e5m2: the CPU kernels know "
       "no other cache",
       op, name);
}

// A cache of `coding`, whose plain dtype is that of `tokens`.
inline void CheckCoded(const Arg& cache, const Arg& tokens, CacheCoding coding) {
  if (coding == kCachePlain) {
    cache.SameDtype(tokens);
  } else if (coding == kCacheE4m3) {
    cache.Dtype({VK_U8, VK_F8E4M3});
  } else {
    cache.Dtype({VK_U8});
  }
}

// What numbers that the kernels decode lack as a factor (float8.h), besides their scale: it is
// applied to sums, as the scale is.
inline float WidenedBy(CacheCoding coding) { return coding == kCacheE4m3 ? 256.0f : 1.0f; }

inline float CheckedScale(const char* op, const char* name, double scale, CacheCoding coding) {
  if (coding == kCachePlain) return 1.0f;
  const float value = static_cast<float>(scale);
  VK_CHECK(value > 0 && std::isfinite(value),
           "%s: %s is %g, want a positive number, as the cache holds floats of 8 bits", op, name,
           scale);
  return value;
}

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_CACHE_CODING_H_
