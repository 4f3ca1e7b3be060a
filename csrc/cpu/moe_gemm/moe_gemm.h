// Mixture of experts: every token through the two products of the few experts that a router chose
// for it ("Outrageously Large Neural Networks", Shazeer et al. 2017; gated experts as in Mixtral).
#ifndef VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_H_
#define VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// Brings the weights of all experts into the layout that vk_cpu_fused_moe reads (moe_weights.h). It
// is one for all tiers and takes exactly the memory of the weights.
//   weight: [experts, N, K], float32 | bfloat16 | float16, any strides
//   packed_weight: its shape and dtype, contiguous, no memory shared with weight
//   isa: "amx", "vec", "neon" or "vsx", what the engine takes the CPU for; the running tier decides
VK_EXPORT vk_status vk_cpu_prepack_moe_weight(const vk_tensor* weight,
                                              const vk_tensor* packed_weight, const char* isa);

// output[t] = sum_j topk_weights[t, j] * (act(input[t] w13[e]^T + b13[e]) w2[e]^T + b2[e]),
// e = topk_id[t, j]. Sums, activation and weighting are float32; act's result and the output are
// rounded to the input's dtype.
//   output, input: [T, H], float32 | bfloat16 | float16, last dimension contiguous, no shared
//   memory w13: [E, 2 I, H], w2: [E, H, I], packed, the input's dtype w13_bias: [E, 2 I], w2_bias:
//   [E, H], the input's dtype, contiguous, or null topk_weights: [T, k], float32;  topk_id: [T, k],
//   int32 | int64, 0 <= id < E; any strides skip_weighted: the weights are taken for 1 (the caller
//   applied them to the input); k must be 1 act: with gate = the first I columns and up = the
//   others: "silu", "gelu" (erf) or "gelu_tanh"
//        of gate, times up. "swigluoai": gate = the even columns, up = the odd ones,
//        g = min(gate, 7), (clamp(up, -7, 7) + 1) * g * sigmoid(1.702 g), gpt-oss's.
VK_EXPORT vk_status vk_cpu_fused_moe(const vk_tensor* output, const vk_tensor* input,
                                     const vk_tensor* w13, const vk_tensor* w2,
                                     const vk_tensor* w13_bias, const vk_tensor* w2_bias,
                                     const vk_tensor* topk_weights, const vk_tensor* topk_id,
                                     int32_t skip_weighted, const char* act, const char* isa);

// The same of int8 weights, each row times its scale; input keeps its dtype.
//   weight, packed_weight: int8
VK_EXPORT vk_status vk_cpu_prepack_moe_weight_int8(const vk_tensor* weight,
                                                   const vk_tensor* packed_weight, const char* isa);
//   w13_scale, w2_scale: float32, [E, 2 I] and [E, H], or with a last dimension of 1, contiguous
//   w13_bias, w2_bias: float32 or the input's dtype
VK_EXPORT vk_status vk_cpu_fused_moe_int8(const vk_tensor* output, const vk_tensor* input,
                                          const vk_tensor* w13, const vk_tensor* w2,
                                          const vk_tensor* w13_scale, const vk_tensor* w2_scale,
                                          const vk_tensor* w13_bias, const vk_tensor* w2_bias,
                                          const vk_tensor* topk_weights, const vk_tensor* topk_id,
                                          int32_t skip_weighted, const char* act, const char* isa);

// As vk_cpu_fused_moe, with weights of 16, 8 or 4 bits from vk_cpu_convert_weight_packed. They are
// decoded without rounding; their scales multiply sums in float32; hidden_states keep their dtype
// but with method 3. w1_zero and w2_zero: with method 3 alone.
//   out, hidden_states: [T, H], float32 | bfloat16 | float16
//   method: 0: w1 [E, 2 I, H], w2 [E, H, I] of the input's dtype, no scales
//           1: int8, scales [E, N] or [E, N, 1] float32, N = 2 I or H
//           2: float8_e4m3fn, scales [E, ceil(N / block_n), ceil(K / block_k)] float32; block_k is
//              a multiple of 32, or at least K
//           3: integers of 4 bits, with scales and zero points, from vk_cpu_convert_int4; what
//              either product multiplies is rounded to int8 (vk_cpu_int4_scaled_mm)
//           4: two E2M1 values a byte (uint8, last dimension K / 2), scales uint8 [E, N, K / 32]
//              from vk_cpu_convert_scale_packed; N and K are multiples of 32
//   w1_bias: [E, 2 I], w2_bias: [E, H], float32 or the input's dtype, contiguous, or null
//   act_method: 0 SiLU, 2 GELU, 3 GELU by tanh of the first I columns times the others; 1: of gates
//   in
//     even and ups in odd columns, (clamp(up, -limit, limit) + 1) * g * sigmoid(alpha g) with
//     g = min(gate, limit)
VK_EXPORT vk_status vk_cpu_fused_experts(const vk_tensor* out, const vk_tensor* hidden_states,
                                         const vk_tensor* w1, const vk_tensor* w2,
                                         const vk_tensor* topk_weights, const vk_tensor* topk_ids,
                                         int64_t method, const vk_tensor* w1_scale,
                                         const vk_tensor* w2_scale, const vk_tensor* w1_zero,
                                         const vk_tensor* w2_zero, int64_t block_n, int64_t block_k,
                                         const vk_tensor* w1_bias, const vk_tensor* w2_bias,
                                         int64_t act_method, double alpha, double limit);

}  // extern "C"

namespace vk {

enum MoeActivation { kMoeSilu, kMoeGelu, kMoeGeluTanh, kMoeSwigluOai, kMoeActivations };

// Of kMoeSwigluOai; the values are gpt-oss's.
struct MoeSwiglu {
  float alpha = 1.702f, limit = 7.0f;
};

// Arrays of three are by vk_dtype: float32, bfloat16, float16.
struct MoeGemmTable {
  // out[i] = act(gate[i], up[i]), rounded; for kMoeSwigluOai gate[2 i], gate[2 i + 1], up is
  // unused.
  using Activate = void(void* out, const float* gate, const float* up, size_t count,
                        const MoeSwiglu& swiglu);
  Activate* activate[kMoeActivations][3];
  // out[i] = sum_j rows[j][i] * weights[j], rounded.
  using Combine = void(void* out, const float* const* rows, const float* weights, size_t row_count,
                       size_t count);
  Combine* combine[3];
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_MOE_GEMM_MOE_GEMM_H_
