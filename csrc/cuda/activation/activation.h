// Activation functions, plain, gated ("GLU Variants Improve Transformer", Shazeer 2020) and gated
// with quantisation. All compute in float32 and round to the tensors' dtype once; unless said
// otherwise the gated ones round the activated half too before the product, as PyTorch does when it
// runs them as two ops. Tensors are on the current GPU; work is enqueued on `stream` (a
// cudaStream_t), nothing is allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_ACTIVATION_ACTIVATION_H_
#define VLLM_KERNELS_CUDA_ACTIVATION_ACTIVATION_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// out[..., i] = act(input[..., i]) * input[..., d + i] for i < d
//   input: [..., 2 d], float32 | bfloat16 | float16, last dimension contiguous
//   out:   [..., d], the input's dtype, last dimension contiguous
// silu(x) = x / (1 + e^-x)
VK_EXPORT vk_status vk_cuda_silu_and_mul(const vk_tensor* out, const vk_tensor* input,
                                         void* stream);
// out[..., i] = input[..., i] * silu(input[..., d + i])
VK_EXPORT vk_status vk_cuda_mul_and_silu(const vk_tensor* out, const vk_tensor* input,
                                         void* stream);
// gelu(x) = x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016)
VK_EXPORT vk_status vk_cuda_gelu_and_mul(const vk_tensor* out, const vk_tensor* input,
                                         void* stream);
// gelu_tanh(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, from the same paper
VK_EXPORT vk_status vk_cuda_gelu_tanh_and_mul(const vk_tensor* out, const vk_tensor* input,
                                              void* stream);
// fatrelu(x) = x where x > threshold, else 0 ("ProSparse", Song et al. 2024)
VK_EXPORT vk_status vk_cuda_fatrelu_and_mul(const vk_tensor* out, const vk_tensor* input,
                                            double threshold, void* stream);
// act(x) = g / (1 + e^(-alpha g)), g = min(x, limit); the other half u becomes
// min(max(u, -limit), limit) + beta
VK_EXPORT vk_status vk_cuda_silu_and_mul_with_clamp(const vk_tensor* out, const vk_tensor* input,
                                                    double limit, double alpha, double beta,
                                                    void* stream);

// out[..., i] = (u + 1) g / (1 + e^(-alpha g)), g = min(input[..., 2 i], limit),
// u = min(max(input[..., 2 i + 1], -limit), limit), rounded once (the gpt-oss model card, 2025)
VK_EXPORT vk_status vk_cuda_swigluoai_and_mul(const vk_tensor* out, const vk_tensor* input,
                                              double alpha, double limit, void* stream);

// SiTU: out[..., i] = y, rounded once, y = beta tanh(g / beta) / (1 + e^-g) * u for g = input[...,
// i], u = input[..., d + i], or with linear_beta > 0 its linear_beta tanh(u / linear_beta)
//   beta: more than 0
//   valid_rows: int32, one element: rows from there on stay as they are; or null
VK_EXPORT vk_status vk_cuda_situ_and_mul(const vk_tensor* out, const vk_tensor* input, double beta,
                                         double linear_beta, const vk_tensor* valid_rows,
                                         void* stream);
// The same of the first expert_num_tokens[e] rows of each expert e; others stay as they are.
//   input: [experts, rows, 2 d];  out: [experts, rows, d];  expert_num_tokens: int32 [experts]
VK_EXPORT vk_status vk_cuda_masked_situ_and_mul(const vk_tensor* out, const vk_tensor* input,
                                                const vk_tensor* expert_num_tokens, double beta,
                                                double linear_beta, void* stream);
// The same of y in float8: scale = max(max |y|, 1e-10) / 448, out = y / scale, y not rounded before
//   out: float8_e4m3fn [..., d];  input: [..., 2 d]
//   scale: float32, of any strides: [rows, 1] with group_size 0, [rows, d / 128] with 128
//   num_valid_tokens: int32 | int64, one element, or null: rows from that times topk on are
//     padding, whose scales become 1 and whose out stays
VK_EXPORT vk_status vk_cuda_situ_and_mul_quant(const vk_tensor* out, const vk_tensor* scale,
                                               const vk_tensor* input, double beta,
                                               double linear_beta, int64_t group_size,
                                               const vk_tensor* num_valid_tokens, int64_t topk,
                                               void* stream);
// An activation of the first valid_token_counts[e] rows of each expert e; others stay as they are.
//   input: [experts, rows, columns], or [rows, columns] with one count
//   out: columns, halved where the activation is gated
//   valid_token_counts: int32, contiguous
//   activation: silu, gelu, gelu_tanh and situ, as the ops with _and_mul; silu_with_clamp (limit)
//     and swigluoai_uninterleave (limit, alpha, beta): silu_and_mul_with_clamp; swigluoai (limit,
//     alpha); swiglustep: min(silu(g), limit) * min(max(u, -limit), limit), rounded once; and
//     without a product silu_no_mul, gelu_no_mul, gelu_tanh_no_mul and relu2_no_mul
VK_EXPORT vk_status vk_cuda_masked_moe_activation(const vk_tensor* out, const vk_tensor* input,
                                                  const vk_tensor* valid_token_counts,
                                                  const char* activation, double clamp_limit,
                                                  double alpha, double beta, double situ_beta,
                                                  double situ_linear_beta, void* stream);

// out = soft_cap_temp tanh(input multiplier / soft_cap_temp) in float32
//   input: float32 | bfloat16 | float16; out: float32, the input's shape
VK_EXPORT vk_status vk_cuda_muse_spark_mul_tanh_soft_cap(const vk_tensor* out,
                                                         const vk_tensor* input, double multiplier,
                                                         double soft_cap_temp, void* stream);

// out = act(input), elementwise
//   input, out: one shape of any rank from 1 and one dtype, last dimension contiguous; may be one
//   tensor
// gelu_new, gelu_fast and gelu_tanh are three spellings of gelu_tanh(x).
VK_EXPORT vk_status vk_cuda_gelu_new(const vk_tensor* out, const vk_tensor* input, void* stream);
VK_EXPORT vk_status vk_cuda_gelu_fast(const vk_tensor* out, const vk_tensor* input, void* stream);
VK_EXPORT vk_status vk_cuda_gelu_tanh(const vk_tensor* out, const vk_tensor* input, void* stream);
// gelu_quick(x) = x / (1 + e^(-1.702 x))
VK_EXPORT vk_status vk_cuda_gelu_quick(const vk_tensor* out, const vk_tensor* input, void* stream);
// relu_squared(x) = max(x, 0)^2 ("Primer", So et al. 2021)
VK_EXPORT vk_status vk_cuda_relu_squared(const vk_tensor* out, const vk_tensor* input,
                                         void* stream);

// result = float8(y * (1 / scale)), y what silu_and_mul writes; saturated, a NaN stays one
//   result: float8_e4m3fn [..., d]; scale: float32, one element
VK_EXPORT vk_status vk_cuda_silu_and_mul_quant(const vk_tensor* result, const vk_tensor* input,
                                               const vk_tensor* scale, void* stream);

// y = silu(gate) * up, not rounded, quantised with a scale for each group of `group_size` (64 or
// 128) neighbouring columns, measured and written:
//   scale = max(min(max |y| / qmax, scale_ub), least), qmax 448 for float8_e4m3fn and 127 for int8,
//   least 1 / (512 qmax) for float8 and 2^-23 for int8; out = y / scale, saturated
//   out: float8_e4m3fn | int8 [..., d], d a multiple of group_size
//   scales: float32, [rows, groups] of any strides; with is_scale_transposed also [groups, rows]
//   scale_ub: float32, one element, with float8 only, or null
VK_EXPORT vk_status vk_cuda_silu_and_mul_per_block_quant(
    const vk_tensor* out, const vk_tensor* input, const vk_tensor* scales, int64_t group_size,
    const vk_tensor* scale_ub, bool is_scale_transposed, void* stream);

// y = silu(gate) * up, not rounded, of the first counts[e] rows of each expert e, quantised with a
// scale for each group of 128 columns; other rows stay as they are:
//   scale = max(max |y|, 1e-10) / 448, with use_ue8m0 the next power of two; y_q = y / scale
//   input: [experts, rows, 2 d], float32 | bfloat16 | float16, rows aligned to 16 bytes; d a
//     multiple of 128, at most 1024 experts
//   counts: int32 [experts], contiguous
//   y_q: float8_e4m3fn [experts, rows, d], rows aligned to 16 bytes
//   y_s: float32 [experts, rows, d / 128] of any strides; or, with use_ue8m0, int32
//     [experts, rows, ceil(d / 512)]: the powers' exponents as bytes, lowest first, 0 behind the
//     last
VK_EXPORT vk_status vk_cuda_persistent_masked_m_silu_mul_quant(const vk_tensor* input,
                                                               const vk_tensor* counts,
                                                               const vk_tensor* y_q,
                                                               const vk_tensor* y_s, bool use_ue8m0,
                                                               void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_ACTIVATION_ACTIVATION_H_
