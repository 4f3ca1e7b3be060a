#include "cpu/gated_delta_rule/gated_delta_rule.h"

#include <torch/csrc/stable/ops.h>

#include <array>
#include <tuple>
#include <vector>

#include "torch/bind.h"

namespace vk::binding {
namespace {

Tensor Zeros(const Tensor& like, const std::vector<int64_t>& size,
             std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_zeros(like, {size.data(), size.size()}, dtype);
}

int64_t SizeOf(const Tensor& tensor, int64_t dim) {
  return dim < tensor.dim() ? tensor.size(dim) : 0;
}

std::tuple<Tensor, Tensor> Gating(const Tensor& A_log, const Tensor& a, const Tensor& b,
                                  const Tensor& dt_bias) {
  const char* op = "fused_gdn_gating_cpu";
  const std::vector<int64_t> size = {1, SizeOf(a, 0), SizeOf(a, 1)};
  const Tensor g = Zeros(a, size, ScalarType::Float), beta = Zeros(b, size);
  Check(vk_cpu_fused_gdn_gating(View(op, "g", g), View(op, "beta", beta), View(op, "A_log", A_log),
                                View(op, "a", a), View(op, "b", b), View(op, "dt_bias", dt_bias)));
  return {g, beta};
}

std::tuple<Tensor, Tensor> Chunk(const Tensor& query, const Tensor& key, const Tensor& value,
                                 const Tensor& g, const Tensor& beta, const Tensor& initial_state,
                                 bool output_final_state, const Tensor& cu_seqlens, bool head_first,
                                 bool normalise, const Tensor& initial_state_indices,
                                 double epsilon) {
  const char* op = "chunk_gated_delta_rule_cpu";
  const Tensor out = torch::stable::new_zeros(value, value.sizes());
  const int64_t sequences = output_final_state ? SizeOf(initial_state_indices, 0) : 0;
  const Tensor final = Zeros(
      initial_state,
      {sequences, SizeOf(initial_state, 1), SizeOf(initial_state, 2), SizeOf(initial_state, 3)},
      ScalarType::Float);
  Check(vk_cpu_chunk_gated_delta_rule(
      View(op, "out", out), View(op, "final", final), View(op, "query", query),
      View(op, "key", key), View(op, "value", value), View(op, "g", g), View(op, "beta", beta),
      View(op, "initial_state", initial_state), View(op, "cu_seqlens", cu_seqlens), head_first,
      normalise, View(op, "initial_state_indices", initial_state_indices), epsilon));
  return {out, final};
}

Tensor Update(const Tensor& A_log, const Tensor& dt_bias, const Tensor& q, const Tensor& k,
              const Tensor& v, const Tensor& a, const Tensor& b, const Tensor& states,
              const Tensor& slots, const Tensor& starts, bool normalise, double softplus_beta,
              double threshold) {
  const char* op = "fused_sigmoid_gating_delta_rule_update_cpu";
  const Tensor out = torch::stable::new_zeros(v, v.sizes());
  Check(vk_cpu_gated_delta_rule_update(
      View(op, "out", out), View(op, "A_log", A_log), View(op, "dt_bias", dt_bias),
      View(op, "q", q), View(op, "k", k), View(op, "v", v), View(op, "a", a), View(op, "b", b),
      View(op, "initial_state_source", states), View(op, "initial_state_indices", slots),
      View(op, "cu_seqlens", starts), normalise, softplus_beta, threshold));
  // A token is a sequence of its own for the caller: [tokens, 1, heads, size].
  return out.dim() == 4 ? torch::stable::transpose(out, 0, 1) : out;
}

Tensor UpdateSpec(const Tensor& A_log, const Tensor& dt_bias, const Tensor& q, const Tensor& k,
                  const Tensor& v, const Tensor& a, const Tensor& b, const Tensor& states,
                  const Tensor& slots, const Tensor& accepted, const Tensor& starts, bool normalise,
                  double softplus_beta, double threshold) {
  const char* op = "fused_sigmoid_gating_delta_rule_update_spec_cpu";
  const Tensor out = torch::stable::new_zeros(v, v.sizes());
  Check(vk_cpu_gated_delta_rule_update_spec(
      View(op, "out", out), View(op, "A_log", A_log), View(op, "dt_bias", dt_bias),
      View(op, "q", q), View(op, "k", k), View(op, "v", v), View(op, "a", a), View(op, "b", b),
      View(op, "initial_state_source", states), View(op, "spec_state_indices", slots),
      View(op, "num_accepted_tokens", accepted), View(op, "cu_seqlens", starts), normalise,
      softplus_beta, threshold));
  return out;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, fused_gdn_gating_cpu, vk::binding::Gating);
VK_IMPL(CPU, chunk_gated_delta_rule_cpu, vk::binding::Chunk);
VK_IMPL(CPU, fused_sigmoid_gating_delta_rule_update_cpu, vk::binding::Update);
VK_IMPL(CPU, fused_sigmoid_gating_delta_rule_update_spec_cpu, vk::binding::UpdateSpec);
