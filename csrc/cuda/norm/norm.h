// Root-mean-square norm, fused with the residual add and with quantisation. Tensors are on the
// current GPU; work is enqueued on `stream` (a cudaStream_t), nothing is allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_NORM_NORM_H_
#define VLLM_KERNELS_CUDA_NORM_NORM_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// result[..., d] = input[..., d] * rsqrt(mean_d(input^2) + epsilon) * weight[d]
// (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019), in float32, rounded to the
// input's dtype before the multiplication by weight, as the engine's own implementation does.
//   result, input: [..., hidden], float32 | bfloat16 | float16, last dimension contiguous; may be
//     one tensor
//   weight: [hidden], or [n, hidden] where input is [n, ..., hidden], of the input's dtype, or null
//     for no weight
VK_EXPORT vk_status vk_cuda_rms_norm(const vk_tensor* result, const vk_tensor* input,
                                     const vk_tensor* weight, double epsilon, void* stream);

// residual += input, then input = rms_norm(residual): both in place. The norm sees the sum before
// it is rounded to the residual's dtype.
//   input, residual: [..., hidden], one dtype, last dimension contiguous
VK_EXPORT vk_status vk_cuda_fused_add_rms_norm(const vk_tensor* input, const vk_tensor* residual,
                                               const vk_tensor* weight, double epsilon,
                                               void* stream);

// The same two, with the normed row y (rounded to the input's dtype) written as
// float8(y * (1 / scale)), saturated; a NaN stays one.
//   result: float8_e4m3fn, input's shape; scale: float32, one element; weight: not null
// The second leaves input as it is and updates residual.
VK_EXPORT vk_status vk_cuda_rms_norm_static_fp8_quant(const vk_tensor* result,
                                                      const vk_tensor* input,
                                                      const vk_tensor* weight,
                                                      const vk_tensor* scale, double epsilon,
                                                      void* stream);
VK_EXPORT vk_status vk_cuda_fused_add_rms_norm_static_fp8_quant(
    const vk_tensor* result, const vk_tensor* input, const vk_tensor* residual,
    const vk_tensor* weight, const vk_tensor* scale, double epsilon, void* stream);

// y as above (after residual += input where there is one), quantised with a scale for each row,
// measured and written:
//   scale = max(min(max |y|, scale_ub) / qmax, least), qmax 448 for float8_e4m3fn and 127 for int8,
//   least 1 / (512 qmax) for float8 and 2^-23 for int8
//   result = float8(y / scale) | int8(round(y * (1 / scale)))
//   result: float8_e4m3fn | int8, input's shape; scale: float32, as many elements as rows,
//     contiguous; scale_ub: float32, one element, with float8 only, or null; residual: input's
//     shape and dtype, updated, or null
VK_EXPORT vk_status vk_cuda_rms_norm_dynamic_per_token_quant(
    const vk_tensor* result, const vk_tensor* input, const vk_tensor* weight,
    const vk_tensor* scale, double epsilon, const vk_tensor* scale_ub, const vk_tensor* residual,
    void* stream);

// The same with a scale for each group of `group_size` (64 or 128) neighbouring columns.
//   scale: float32, [rows, groups] of any strides; with is_scale_transposed also [groups, rows]
VK_EXPORT vk_status vk_cuda_rms_norm_per_block_quant(
    const vk_tensor* result, const vk_tensor* input, const vk_tensor* weight,
    const vk_tensor* scale, double epsilon, const vk_tensor* scale_ub, const vk_tensor* residual,
    int64_t group_size, bool is_scale_transposed, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_NORM_NORM_H_
