// Matrix multiplication with weights that are packed once and multiplied many times: float
// (f32, bf16, f16) and int8 activations times int8 weights (W8A8).
//
// A handle names one packed weight matrix. It holds one copy that serves every number of rows and
// every tier, so forcing a tier after the creation of a handle is fine. Calls may run concurrently
// on one handle; a release during a call takes effect when that call returns.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_H_

#include "core/abi.h"

extern "C" {

// Packs `b` and sets `*handle`, which is never 0.
//   b: [K, N], float32 | bfloat16 | float16, any strides (an engine passes weight.t())
// bfloat16 weights become compact (gemm_table.h) where that makes products faster; results have the
// same bits either way. VLLM_KERNELS_CPU_COMPACT: 0 never, 1 wherever possible.
VK_EXPORT vk_status vk_cpu_create_onednn_mm_handler(const vk_tensor* b, int64_t* handle);

// c = a @ b + bias, accumulated in float32. Our own kernels give a row the same bits whatever other
// rows there are. bfloat16 on tiers with Arm's bfdot and bfmmla: products and their sums are
// rounded to odd, subnormal numbers count as zero, and each NaN is the default one.
//   c: [M, N], a: [M, K], dtype of b, last dimension contiguous; c may also be [..., N], contiguous
//   bias: [N], dtype of b, contiguous, or null
VK_EXPORT vk_status vk_cpu_onednn_mm(const vk_tensor* c, const vk_tensor* a, const vk_tensor* bias,
                                     int64_t handle);

// Packs the int8 weights `b` for vk_cpu_onednn_scaled_mm and copies its scales.
//   b: [K, N], int8, any strides;  b_scales: 1 or N values, float32, contiguous
//   output_type: vk_dtype, float32 | bfloat16 | float16
//   dynamic_act_quant: scale (and zero point) per row of a, else one for all
//   use_azp: a is asymmetric, every call brings zero points
VK_EXPORT vk_status vk_cpu_create_onednn_scaled_mm_handler(const vk_tensor* b,
                                                           const vk_tensor* b_scales,
                                                           int32_t output_type,
                                                           int32_t dynamic_act_quant,
                                                           int32_t use_azp, int64_t* handle);

// c[m, n] = a_scale[m] * (b_scale[n] * sum_k a[m, k] b[k, n] - azp[m] * adj[n]) + bias[n]
// where the sum is exact in int32 (for K < 131072) and the rest float32.
//   c: [M, N], float32 | bfloat16 | float16, last dimension contiguous
//   a: [M, K], int8, last dimension contiguous
//   a_scales: float32, M values (dynamic handles) or 1, contiguous
//   azp: int32, as many values as a_scales may have; present exactly if the handle has use_azp
//   azp_adj: N values, contiguous: float32 = b_scale[n] * sum_k b[k, n] as the engine passes it, or
//            int32 = sum_k b[k, n]. Null, or a static handle: the handle's own sums are taken.
//   bias: [N], dtype of c, contiguous, or null
VK_EXPORT vk_status vk_cpu_onednn_scaled_mm(const vk_tensor* c, const vk_tensor* a,
                                            const vk_tensor* a_scales, const vk_tensor* azp,
                                            const vk_tensor* azp_adj, const vk_tensor* bias,
                                            int64_t handle);

// Frees the packed weights. VK_INVALID_ARGUMENT where the handle is unknown or released already.
VK_EXPORT vk_status vk_cpu_release_dnnl_matmul_handler(int64_t handle);

// What this build multiplies with, separated by ", ": "vllm_kernels", and "onednn" where it has it.
VK_EXPORT const char* vk_cpu_gemm_backends(void);

}  // extern "C"

#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_H_
