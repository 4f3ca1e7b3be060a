// The short causal convolution of each channel along time that precedes a state-space or linear
// attention layer (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
// 2023), with the last inputs of each sequence kept between calls.
#ifndef VLLM_KERNELS_CPU_CAUSAL_CONV1D_CAUSAL_CONV1D_H_
#define VLLM_KERNELS_CPU_CAUSAL_CONV1D_CAUSAL_CONV1D_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// With y[-1], y[-2] ... for the inputs of a sequence before its first one, its history, and x
// behind them:
//   out[c, t] = silu?(bias[c] + sum_i weight[c, i] * x[c, t - (width - 1) + i])
// in float32, rounded once. T is float32, bfloat16 or float16, one for all; strides are any.

// A whole prompt, or a piece of one, of each sequence. The history is states[slot, :, : width - 1],
// which then gets the last width - 1 inputs. Sequences run at once, here and below: a slot that one
// writes may be no other's, which is trusted, not checked.
//   out, x: T [dim, tokens]; weight: T [dim, width] or [dim, 1, width]; bias: T [dim] or null
//   states: T [slots, dim, >= width - 1], written, or null: no history, and none is kept
//   starts: int32 [sequences + 1], first token of each sequence
//   slots: int32 [sequences], or [sequences, columns], whose first column counts, or null: sequence
//     s has slot s; one of slot `pad_slot` is skipped
//   initial: bool [sequences] or null: which have a history; that of the others is zeros
VK_EXPORT vk_status vk_cpu_causal_conv1d_fwd(const vk_tensor* out, const vk_tensor* x,
                                             const vk_tensor* weight, const vk_tensor* bias,
                                             const vk_tensor* states, const vk_tensor* starts,
                                             const vk_tensor* slots, const vk_tensor* initial,
                                             int32_t silu, int64_t pad_slot);

// The next tokens of each sequence, as many of each. Without `accepted` as above. With it the
// inputs of the tokens that the call before drafted are still in the state, and accepted[s] - 1 of
// them became history, which begins at that place; then it and the inputs of this call without the
// first of them (width - 2 + tokens elements) are kept from place 0 on.
//   out, x: T [sequences, dim] or [sequences, tokens, dim]
//   accepted: int32 [sequences] or null
VK_EXPORT vk_status vk_cpu_causal_conv1d_update(const vk_tensor* out, const vk_tensor* x,
                                                const vk_tensor* states, const vk_tensor* weight,
                                                const vk_tensor* bias, int32_t silu,
                                                const vk_tensor* accepted, const vk_tensor* slots,
                                                int64_t pad_slot);

// The same by the engine's other name for it: some tokens of each sequence, one where `starts` is
// null, and a state of width - 1 elements.
//   out, x: T [tokens, dim]; activation: "silu", "swish" or null; others as above
VK_EXPORT vk_status vk_cpu_causal_conv1d_update_vec(const vk_tensor* out, const vk_tensor* x,
                                                    const vk_tensor* states,
                                                    const vk_tensor* weight, const vk_tensor* bias,
                                                    const char* activation, const vk_tensor* slots,
                                                    const vk_tensor* starts, int64_t pad_slot);

}  // extern "C"

namespace vk {

// Channels of one sequence. Strides count elements.
struct CausalConv1d {
  void* out;
  const void* x;
  const void* weight;
  const void* bias;     // null: none
  const void* history;  // null: zeros
  void* kept;           // null: nothing is kept
  int64_t out_channel, out_token, x_channel, x_token, weight_channel, weight_tap, bias_channel;
  int64_t state_channel, state_place;
  int64_t channels, tokens;
  int64_t keep;  // elements of `kept`, the last ones of history and inputs
  int32_t width;
  bool silu;
};

constexpr int32_t kMaxConvWidth = 16;

struct CausalConv1dTable {
  // Index: vk_dtype (float32, bfloat16, float16). `history` and `kept` may be the same memory.
  void (*run[3])(const CausalConv1d& sequence);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_CAUSAL_CONV1D_CAUSAL_CONV1D_H_
