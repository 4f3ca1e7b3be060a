#include "cpu/moe_routing/moe_routing.h"

#include <torch/csrc/stable/ops.h>

#include "torch/bind.h"

namespace vk::binding {
namespace {

// Rows for `topk` experts of each token.
std::tuple<Tensor, Tensor> Routes(const char* op, const Tensor& logits, int64_t topk,
                                  int64_t shared) {
  CheckDims(op, "gating_output", logits, 2, "[tokens, experts]");
  if (shared != 0) {
    Refuse(op, "num_fused_shared_experts", " is " + std::to_string(shared) + ", want 0");
  }
  const std::vector<int64_t> size{logits.size(0), topk};
  return {NewEmpty(op, "topk_weights", logits, size, ScalarType::Float),
          NewEmpty(op, "topk_ids", logits, size, ScalarType::Int)};
}

std::tuple<Tensor, Tensor> BiasedTopk(const Tensor& hidden_states, const Tensor& gating_output,
                                      const Tensor& correction_bias, int64_t topk, bool renormalize,
                                      const std::string& scoring_func,
                                      int64_t num_fused_shared_experts,
                                      std::optional<double> routed_scaling_factor,
                                      bool apply_routed_scaling_factor_on_output) {
  const char* op = "biased_topk_cpu";
  const auto routes = Routes(op, gating_output, topk, num_fused_shared_experts);
  if (hidden_states.dim() == 0 || hidden_states.size(0) != gating_output.size(0)) {
    Refuse(op, "hidden_states", " has other tokens than gating_output");
  }
  const double factor =
      apply_routed_scaling_factor_on_output ? routed_scaling_factor.value_or(1.0) : 1.0;
  Check(vk_cpu_biased_topk(
      View(op, "topk_weights", std::get<0>(routes)), View(op, "topk_ids", std::get<1>(routes)),
      View(op, "gating_output", gating_output), View(op, "correction_bias", correction_bias),
      scoring_func.c_str(), renormalize, factor));
  return routes;
}

std::tuple<Tensor, Tensor> HashTopk(const Tensor& gating_output, const Tensor& tid2eid,
                                    int64_t topk, const std::string& scoring_func,
                                    int64_t num_fused_shared_experts, int64_t num_experts,
                                    double routed_scaling_factor) {
  const char* op = "hash_topk_cpu";
  const auto routes = Routes(op, gating_output, topk, num_fused_shared_experts);
  if (gating_output.size(1) != num_experts) {
    Refuse(op, "num_experts",
           " is " + std::to_string(num_experts) + ", want the " +
               std::to_string(gating_output.size(1)) + " of gating_output");
  }
  Check(vk_cpu_hash_topk(View(op, "topk_weights", std::get<0>(routes)),
                         View(op, "topk_ids", std::get<1>(routes)),
                         View(op, "gating_output", gating_output), View(op, "tid2eid", tid2eid),
                         scoring_func.c_str(), routed_scaling_factor));
  return routes;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, biased_topk_cpu, vk::binding::BiasedTopk);
VK_IMPL(CPU, hash_topk_cpu, vk::binding::HashTopk);
