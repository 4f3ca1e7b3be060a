// Checks that the cache ops share.
#ifndef VLLM_KERNELS_CUDA_CACHE_CHECK_H_
#define VLLM_KERNELS_CUDA_CACHE_CHECK_H_

#include <cstring>

#include "core/check.h"
#include "cuda/cache/launch.h"

namespace vk::cuda::cache {

inline Format FormatOf(const char* op, const char* kv_cache_dtype) {
  const auto is = [&](const char* name) { return std::strcmp(kv_cache_dtype, name) == 0; };
  if (is("auto") || is("float32") || is("bfloat16") || is("float16")) return Format::kSame;
  if (is("fp8") || is("fp8_e4m3")) return Format::kE4M3;
  if (is("fp8_e5m2")) return Format::kE5M2;
  Fail(VK_UNSUPPORTED,
       "%s: kv_cache_dtype is \"%s\", want auto, float32, bfloat16, float16, fp8, fp8_e4m3 or "
       "fp8_e5m2",
       op, kv_cache_dtype);
}

// A cache in `format` of values with `values`' dtype.
inline void CheckFormat(const Arg& cache, Format format, const Arg& values) {
  if (format == Format::kSame) {
    cache.SameDtype(values);
  } else if (format == Format::kE4M3) {
    cache.Dtype({VK_U8, VK_F8E4M3});
  } else {
    cache.Dtype({VK_U8});
  }
}

// The scale of a float8 cache; null where the format has none. `stride`: 0 for one element.
inline const float* CheckScale(const char* op, const char* name, const vk_tensor* scale,
                               Format format, int64_t heads, int64_t* stride) {
  *stride = 0;
  if (format == Format::kSame) return nullptr;
  const Arg arg(op, name, scale);
  arg.Dtype({VK_F32}).Contiguous();
  const int64_t count = NumElements(*scale);
  VK_CHECK(count == 1 || count == heads, "%s: %s has shape %s, want one element or %lld", op, name,
           ShapeString(*scale).c_str(), Print(heads));
  if (count > 1) *stride = 1;
  return static_cast<const float*>(scale->data);
}

inline void CheckSlotLimit(const char* op, int64_t slots) {
  VK_CHECK(slots < (int64_t{1} << 31), "%s: the cache has %lld slots, want less than 2^31", op,
           Print(slots));
}

inline uint32_t CheckCount(const char* op, int64_t pieces) {
  VK_CHECK(pieces < (int64_t{1} << 31), "%s: %lld pieces of rows, want less than 2^31", op,
           Print(pieces));
  return static_cast<uint32_t>(pieces);
}

}  // namespace vk::cuda::cache
#endif  // VLLM_KERNELS_CUDA_CACHE_CHECK_H_
