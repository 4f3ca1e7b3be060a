// Gated delta nets (Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024) on drafted tokens.
// Tensors are on the current GPU; work is enqueued on `stream` (a cudaStream_t), nothing is
// allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_GATED_DELTA_RULE_GATED_DELTA_RULE_H_
#define VLLM_KERNELS_CUDA_GATED_DELTA_RULE_GATED_DELTA_RULE_H_

#include "core/abi.h"

extern "C" {

// The tokens of each request, one after the other, from the state of its last accepted one, each
// head's state [128 values, 128 keys] in float32, for each value head h with its key head h HV / H:
//   q, k of length 1, q times scale;  g = exp(-exp(A_log) softplus(a + dt_bias)), beta = sigmoid(b)
//   S = g S;  S += beta (v - S k) k^T;  o = S q, rounded to out's dtype
//   out = o / sqrt(mean o^2 + norm_eps) * norm_weight * act(output_gate)
//   mixed_qkv: [tokens, 2 H 128 + HV 128], bfloat16 | float16, rows of q, k and v; last dimension
//     contiguous, rows aligned to 8 bytes
//   a, b: [tokens, HV], last dimension contiguous;  A_log, dt_bias: [HV];  norm_weight: [128];
//     float32 | bfloat16 | float16, the latter contiguous
//   state_indices: int32 [requests, n], last dimension contiguous: the slot of the state behind
//     each token; the first state is that of number num_accepted_tokens - 1. Numbers below 1, or
//     that state has not, name none: without a first state, out is 0 and nothing else is written.
//     Requests run at once: a slot that one writes may be no other's, which is trusted, not checked
//   cu_seqlens: int32 [requests + 1];  num_accepted_tokens: int32 [requests]; both contiguous. That
//     the former ascends from 0 or more to at most tokens is trusted, not checked. Tokens before
//     and behind, such as those that pad a graph's, are not read, and out keeps what is there
//   state: [slots, HV, 128, 128], float32 | bfloat16, slots of any stride, aligned to 16 bytes;
//     read and written
//   output_gate, out: [tokens, HV, 128], the dtype of mixed_qkv; out contiguous
//   output_gate_activation: "silu" | "sigmoid"
VK_EXPORT vk_status vk_cuda_fused_gdn_decode_post_conv_mtp(
    const vk_tensor* mixed_qkv, const vk_tensor* a, const vk_tensor* b, const vk_tensor* A_log,
    const vk_tensor* dt_bias, const vk_tensor* state_indices, const vk_tensor* cu_seqlens,
    const vk_tensor* num_accepted_tokens, const vk_tensor* state, const vk_tensor* output_gate,
    const vk_tensor* norm_weight, const vk_tensor* out, double scale, double norm_eps,
    const char* output_gate_activation, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_GATED_DELTA_RULE_GATED_DELTA_RULE_H_
