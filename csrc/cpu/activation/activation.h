// Activation functions, plain and gated ("GLU Variants Improve Transformer", Shazeer 2020).
// All compute in float32 and round to the tensors' dtype once; the gated ones round the activated
// half too before the product, as PyTorch does when it runs them as two ops.
#ifndef VLLM_KERNELS_CPU_ACTIVATION_ACTIVATION_H_
#define VLLM_KERNELS_CPU_ACTIVATION_ACTIVATION_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// out[..., i] = act(input[..., i]) * input[..., d + i] for i < d
//   input: [..., 2 d], float32 | bfloat16 | float16, last dimension contiguous
//   out:   [..., d], the input's dtype, last dimension contiguous
// silu(x) = x / (1 + e^-x)
VK_EXPORT vk_status vk_cpu_silu_and_mul(const vk_tensor* out, const vk_tensor* input);
// gelu(x) = x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016)
VK_EXPORT vk_status vk_cpu_gelu_and_mul(const vk_tensor* out, const vk_tensor* input);
// gelu_tanh(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, from the same paper
VK_EXPORT vk_status vk_cpu_gelu_tanh_and_mul(const vk_tensor* out, const vk_tensor* input);

// out = act(input), elementwise
//   input, out: one shape of any rank from 1 and one dtype, last dimension contiguous; may be one
//   tensor
// gelu_new, gelu_fast and gelu_tanh are three spellings of gelu_tanh(x).
VK_EXPORT vk_status vk_cpu_gelu_new(const vk_tensor* out, const vk_tensor* input);
VK_EXPORT vk_status vk_cpu_gelu_fast(const vk_tensor* out, const vk_tensor* input);
VK_EXPORT vk_status vk_cpu_gelu_tanh(const vk_tensor* out, const vk_tensor* input);
// gelu_quick(x) = x / (1 + e^(-1.702 x))
VK_EXPORT vk_status vk_cpu_gelu_quick(const vk_tensor* out, const vk_tensor* input);

}  // extern "C"

namespace vk {

// `count` contiguous elements; the index of each array is vk_dtype (float32, bfloat16, float16).
struct ActivationTable {
  using Gated = void(void* out, const void* gate, const void* up, size_t count);
  using Plain = void(void* out, const void* input, size_t count);
  Gated* silu_and_mul[3];
  Gated* gelu_and_mul[3];
  Gated* gelu_tanh_and_mul[3];
  Plain* gelu_tanh[3];
  Plain* gelu_quick[3];
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ACTIVATION_ACTIVATION_H_
