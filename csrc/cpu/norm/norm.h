// Root-mean-square norm, plain and fused with the residual add.
#ifndef VLLM_KERNELS_CPU_NORM_NORM_H_
#define VLLM_KERNELS_CPU_NORM_NORM_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// result[..., d] = input[..., d] * rsqrt(mean_d(input^2) + epsilon) * weight[d]
// (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019), in float32, rounded to the
// input's dtype before the multiplication by weight, as the engine's own implementation does.
//   result, input: [..., hidden], float32 | bfloat16 | float16, last dimension contiguous
//   weight: [hidden], the input's dtype, or null for no weight
VK_EXPORT vk_status vk_cpu_rms_norm(const vk_tensor* result, const vk_tensor* input,
                                    const vk_tensor* weight, double epsilon);

// residual += input, then input = rms_norm(residual): both in place.
//   input, residual: [..., hidden], one dtype, last dimension contiguous
VK_EXPORT vk_status vk_cpu_fused_add_rms_norm(const vk_tensor* input, const vk_tensor* residual,
                                              const vk_tensor* weight, double epsilon);

}  // extern "C"

namespace vk {

// One row of `width` elements; the index of each array is vk_dtype (float32, bfloat16, float16).
struct NormTable {
  void (*rms_norm[3])(void* result, const void* input, const void* weight, float epsilon,
                      size_t width);
  void (*fused_add_rms_norm[3])(void* input, void* residual, const void* weight, float epsilon,
                                size_t width);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_NORM_NORM_H_
