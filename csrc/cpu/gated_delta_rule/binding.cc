#include "cpu/gated_delta_rule/gated_delta_rule.h"

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "torch/bind.h"

namespace vk::binding {
namespace {

int64_t SizeOf(const Tensor& tensor, int64_t dim) {
  return dim < tensor.dim() ? tensor.size(dim) : 0;
}

std::tuple<Tensor, Tensor> Gating(const vk_tensor* A_log, const Tensor& a, const Tensor& b,
                                  const vk_tensor* dt_bias) {
  const char* op = "fused_gdn_gating_cpu";
  const int64_t tokens = SizeOf(a, 0), heads = SizeOf(a, 1);
  const Tensor g = NewZeros(op, "g", a, {1, tokens, heads}, ScalarType::Float);
  const Tensor beta = NewZeros(op, "beta", b, {1, tokens, heads});
  Check(vk_cpu_fused_gdn_gating(View(op, "g", g), View(op, "beta", beta), A_log, View(op, "a", a),
                                View(op, "b", b), dt_bias));
  return {g, beta};
}

std::tuple<Tensor, Tensor> Chunk(const vk_tensor* query, const vk_tensor* key, const Tensor& value,
                                 const vk_tensor* g, const vk_tensor* beta,
                                 const Tensor& initial_state, bool output_final_state,
                                 const vk_tensor* cu_seqlens, bool head_first, bool normalise,
                                 const Tensor& initial_state_indices, double epsilon) {
  const char* op = "chunk_gated_delta_rule_cpu";
  const Tensor out = NewZeros(op, "out", value, value.sizes());
  const int64_t sequences = output_final_state ? SizeOf(initial_state_indices, 0) : 0;
  const Tensor final = NewZeros(
      op, "final", initial_state,
      {sequences, SizeOf(initial_state, 1), SizeOf(initial_state, 2), SizeOf(initial_state, 3)},
      ScalarType::Float);
  Check(vk_cpu_chunk_gated_delta_rule(
      View(op, "out", out), View(op, "final", final), query, key, View(op, "value", value), g, beta,
      View(op, "initial_state", initial_state), cu_seqlens, head_first, normalise,
      View(op, "initial_state_indices", initial_state_indices), epsilon));
  return {out, final};
}

Tensor Update(const vk_tensor* A_log, const vk_tensor* dt_bias, const vk_tensor* q,
              const vk_tensor* k, const Tensor& v, const vk_tensor* a, const vk_tensor* b,
              const vk_tensor* states, const vk_tensor* slots, const vk_tensor* starts,
              bool normalise, double softplus_beta, double threshold) {
  const char* op = "fused_sigmoid_gating_delta_rule_update_cpu";
  const Tensor out = NewZeros(op, "out", v, v.sizes());
  Check(vk_cpu_gated_delta_rule_update(View(op, "out", out), A_log, dt_bias, q, k, View(op, "v", v),
                                       a, b, states, slots, starts, normalise, softplus_beta,
                                       threshold));
  // A token is a sequence of its own for the caller: [tokens, 1, heads, size].
  return out.dim() == 4 ? torch::stable::transpose(out, 0, 1) : out;
}

Tensor UpdateSpec(const vk_tensor* A_log, const vk_tensor* dt_bias, const vk_tensor* q,
                  const vk_tensor* k, const Tensor& v, const vk_tensor* a, const vk_tensor* b,
                  const vk_tensor* states, const vk_tensor* slots, const vk_tensor* accepted,
                  const vk_tensor* starts, bool normalise, double softplus_beta, double threshold) {
  const char* op = "fused_sigmoid_gating_delta_rule_update_spec_cpu";
  const Tensor out = NewZeros(op, "out", v, v.sizes());
  Check(vk_cpu_gated_delta_rule_update_spec(View(op, "out", out), A_log, dt_bias, q, k,
                                            View(op, "v", v), a, b, states, slots, accepted, starts,
                                            normalise, softplus_beta, threshold));
  return out;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, fused_gdn_gating_cpu, vk::binding::Gating);
VK_IMPL(CPU, chunk_gated_delta_rule_cpu, vk::binding::Chunk);
VK_IMPL(CPU, fused_sigmoid_gating_delta_rule_update_cpu, vk::binding::Update);
VK_IMPL(CPU, fused_sigmoid_gating_delta_rule_update_spec_cpu, vk::binding::UpdateSpec);
