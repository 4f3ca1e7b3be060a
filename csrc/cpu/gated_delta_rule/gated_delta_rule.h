// Gated delta nets (Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta
// Rule", 2024): linear attention whose state forgets by a gate and is corrected by the delta rule.
#ifndef VLLM_KERNELS_CPU_GATED_DELTA_RULE_GATED_DELTA_RULE_H_
#define VLLM_KERNELS_CPU_GATED_DELTA_RULE_GATED_DELTA_RULE_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// g = -exp(A_log) * softplus(a + dt_bias), beta = sigmoid(b), in float32.
//   g: float32 [1, tokens, heads], beta: T of the same shape, both contiguous, written
//   A_log, dt_bias: float32 or T [heads], contiguous
//   a, b: T [tokens, heads], last dimension contiguous; T is float32, bfloat16 or float16
VK_EXPORT vk_status vk_cpu_fused_gdn_gating(const vk_tensor* g, const vk_tensor* beta,
                                            const vk_tensor* A_log, const vk_tensor* a,
                                            const vk_tensor* b, const vk_tensor* dt_bias);

// For each sequence and each head h of the values, with the state S [key_size, value_size] of its
// slot, and the head h / (value heads / key heads) of the queries and keys:
//   S = exp(g[t]) S;  S += k[t] (beta[t] (v[t] - S^T k[t]))^T;  out[t] = S^T q[t] / sqrt(key_size)
// in float32, q and k divided by sqrt(sum of squares + epsilon) before where `normalise`. A
// sequence of a negative slot is skipped, and its output is left alone. Sequences run at once, here
// and below: a slot that one writes may be no other's, which is trusted, not checked.
//   out, v: T [1, tokens, value heads, value_size]; q, k: T [1, tokens, key heads, key_size]
//   g, beta: float32 or T [1, tokens, value heads], last dimension contiguous
//   states: float32 or T [slots, value heads, key_size, value_size], contiguous but for the first
//     dimension, in place
//   starts: int32 [sequences + 1]; slots: int32 [sequences]
//   final: float32 or null: [sequences, value heads, key_size, value_size], contiguous, gets the
//     last states too
VK_EXPORT vk_status vk_cpu_chunk_gated_delta_rule(const vk_tensor* out, const vk_tensor* final,
                                                  const vk_tensor* q, const vk_tensor* k,
                                                  const vk_tensor* v, const vk_tensor* g,
                                                  const vk_tensor* beta, const vk_tensor* states,
                                                  const vk_tensor* starts, int32_t head_first,
                                                  int32_t normalise, const vk_tensor* slots,
                                                  double epsilon);

// The same with the gates of fused_gdn_gating from a and b: softplus(x) = log(1 + exp(s x)) / s,
// where s is `softplus_beta`, and x where s x > `threshold`. Shapes with the leading 1 or without.
//   a, b: float32, bfloat16 or float16 [tokens, value heads], last dimension contiguous
VK_EXPORT vk_status vk_cpu_gated_delta_rule_update(const vk_tensor* out, const vk_tensor* A_log,
                                                   const vk_tensor* dt_bias, const vk_tensor* q,
                                                   const vk_tensor* k, const vk_tensor* v,
                                                   const vk_tensor* a, const vk_tensor* b,
                                                   const vk_tensor* states, const vk_tensor* slots,
                                                   const vk_tensor* starts, int32_t normalise,
                                                   double softplus_beta, double threshold);

// The same for drafted tokens: the sequence begins with the state of slots[s, accepted[s] - 1], and
// the state behind its token t goes to slots[s, t].
//   slots: int32 [sequences, columns]; accepted: int32 [sequences]
VK_EXPORT vk_status vk_cpu_gated_delta_rule_update_spec(
    const vk_tensor* out, const vk_tensor* A_log, const vk_tensor* dt_bias, const vk_tensor* q,
    const vk_tensor* k, const vk_tensor* v, const vk_tensor* a, const vk_tensor* b,
    const vk_tensor* states, const vk_tensor* slots, const vk_tensor* accepted,
    const vk_tensor* starts, int32_t normalise, double softplus_beta, double threshold);

}  // extern "C"

namespace vk {

// Rows [tokens, heads, width] of any strides, which count elements.
struct DeltaRows {
  char* data;
  int64_t token, head, element;
};

// What all tasks of a call share.
struct DeltaRule {
  DeltaRows q, k, v, out;
  const float* decay;  // [tokens, value_heads], exp(g)
  const float* beta;   // [tokens, value_heads]
  char* states;
  int64_t slot_stride;         // elements
  int64_t value_heads, group;  // group: heads of the values for each of the keys
  int64_t key_size, value_size;
  float scale, epsilon;
  bool normalise;
};

struct DeltaSequence {
  int64_t first, tokens;
  int64_t slot;          // of its first state, and of its last one where `slots` is null
  const int32_t* slots;  // or the slot of the state behind each token, negative: none
};

struct GatedDeltaRuleTable {
  // Of `heads` heads of one token. Index: vk_dtype.
  void (*gating[3])(float* g, float* beta, const float* a_log, const float* dt_bias, const void* a,
                    const void* b, size_t heads, float softplus_beta, float threshold);
  void (*exp)(float* values, size_t count);
  void (*widen[3])(float* to, const void* from, size_t count);
  void (*narrow[3])(void* to, const float* from, size_t count);
  size_t (*scratch_floats)(int64_t key_size, int64_t value_size);
  // One sequence's head. The first index is the dtype of the states, the second that of the rest.
  void (*attend[3][3])(const DeltaRule& rule, const DeltaSequence& sequence, int64_t head,
                       float* scratch);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_GATED_DELTA_RULE_GATED_DELTA_RULE_H_
