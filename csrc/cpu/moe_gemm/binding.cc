#include "cpu/moe_gemm/moe_gemm.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

void FusedExperts(const vk_tensor* out, const vk_tensor* hidden_states, const vk_tensor* w1,
                  const vk_tensor* w2, const vk_tensor* topk_weights, const vk_tensor* topk_ids,
                  int64_t method, const vk_tensor* w1_scale, const vk_tensor* w2_scale,
                  const vk_tensor* w1_zero, const vk_tensor* w2_zero, const vk_tensor* a1_scale,
                  std::optional<std::vector<int64_t>> block_size, const vk_tensor* w1_bias,
                  const vk_tensor* w2_bias, std::optional<double> alpha,
                  std::optional<double> limit, bool is_vnni, int64_t act_method) {
  constexpr const char* kOp = "fused_experts_cpu";
  if (a1_scale != nullptr) Refuse(kOp, "a1_scale", " is of a method without a kernel, want None");
  if (!is_vnni) Refuse(kOp, "is_vnni", " is False, want weights of convert_weight_packed");
  if (block_size.has_value() && block_size->size() != 2) {
    Refuse(kOp, "block_size", " has " + std::to_string(block_size->size()) + " elements, want 2");
  }
  Check(vk_cpu_fused_experts(out, hidden_states, w1, w2, topk_weights, topk_ids, method, w1_scale,
                             w2_scale, w1_zero, w2_zero, block_size ? block_size->at(0) : 0,
                             block_size ? block_size->at(1) : 0, w1_bias, w2_bias, act_method,
                             alpha.value_or(1.702), limit.value_or(7.0)));
}

}  // namespace
}  // namespace vk::binding

VK_BIND(CPU, prepack_moe_weight, vk_cpu_prepack_moe_weight);
VK_BIND(CPU, cpu_fused_moe, vk_cpu_fused_moe);
VK_BIND(CPU, prepack_moe_weight_int8, vk_cpu_prepack_moe_weight_int8);
VK_BIND(CPU, cpu_fused_moe_int8, vk_cpu_fused_moe_int8);
VK_IMPL(CPU, fused_experts_cpu, vk::binding::FusedExperts);
