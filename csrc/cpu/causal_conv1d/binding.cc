#include "cpu/causal_conv1d/causal_conv1d.h"

#include <torch/csrc/stable/ops.h>

#include <array>

#include "torch/bind.h"

namespace vk::binding {
namespace {

// Elements of a channel one behind the other in weights as they come; here it is the channels of a
// tap, which one load takes.
Tensor Packed(const Tensor& weight) {
  const char* op = "causal_conv1d_weight_pack";
  CheckCpu(op, "weight", weight);
  if (weight.dim() != 2) {
    Refuse(op, "weight", " has " + std::to_string(weight.dim()) + " dimensions, want [dim, width]");
  }
  const Tensor packed = torch::stable::contiguous(torch::stable::transpose(weight, 0, 1));
  return torch::stable::transpose(packed, 0, 1);
}

// Tokens outermost, whatever the order of x: what reads the result reads channels together.
Tensor OutputFor(const Tensor& x) {
  if (x.dim() != 2) {
    Refuse("causal_conv1d_fwd_cpu", "x",
           " has " + std::to_string(x.dim()) + " dimensions, want [dim, tokens]");
  }
  const std::array<int64_t, 2> size = {x.size(1), x.size(0)};
  const Tensor rows = torch::stable::new_zeros(x, {size.data(), size.size()});
  return torch::stable::transpose(rows, 0, 1);
}

Tensor Forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
               const std::optional<Tensor>& conv_states,
               const std::optional<Tensor>& query_start_loc,
               const std::optional<Tensor>& cache_indices,
               const std::optional<Tensor>& has_initial_state, bool silu, int64_t pad_slot,
               bool /*is_weight_packed: the strides say it*/) {
  const char* op = "causal_conv1d_fwd_cpu";
  const Tensor out = OutputFor(x);
  Check(vk_cpu_causal_conv1d_fwd(View(op, "out", out), View(op, "x", x), View(op, "weight", weight),
                                 View(op, "bias", bias), View(op, "conv_states", conv_states),
                                 View(op, "query_start_loc", query_start_loc),
                                 View(op, "cache_indices", cache_indices),
                                 View(op, "has_initial_state", has_initial_state), silu, pad_slot));
  return out;
}

Tensor Update(const Tensor& x, const Tensor& conv_states, const Tensor& weight,
              const std::optional<Tensor>& bias, bool silu,
              const std::optional<Tensor>& num_accepted_tokens,
              const std::optional<Tensor>& conv_state_indices, int64_t pad_slot,
              bool /*is_weight_packed*/) {
  const char* op = "causal_conv1d_update_cpu";
  const Tensor out = torch::stable::new_zeros(x, x.sizes());
  Check(vk_cpu_causal_conv1d_update(View(op, "out", out), View(op, "x", x),
                                    View(op, "conv_states", conv_states),
                                    View(op, "weight", weight), View(op, "bias", bias), silu,
                                    View(op, "num_accepted_tokens", num_accepted_tokens),
                                    View(op, "conv_state_indices", conv_state_indices), pad_slot));
  return out;
}

Tensor UpdateVec(const Tensor& x, const Tensor& conv_state, const Tensor& weight,
                 const std::optional<Tensor>& bias, const std::optional<std::string>& activation,
                 const std::optional<Tensor>& conv_state_indices,
                 const std::optional<Tensor>& query_start_loc, int64_t pad_slot) {
  const char* op = "causal_conv1d_update_cpu_vec";
  const Tensor out = torch::stable::new_zeros(x, x.sizes());
  Check(vk_cpu_causal_conv1d_update_vec(View(op, "out", out), View(op, "x", x),
                                        View(op, "conv_state", conv_state),
                                        View(op, "weight", weight), View(op, "bias", bias),
                                        activation.has_value() ? activation->c_str() : nullptr,
                                        View(op, "conv_state_indices", conv_state_indices),
                                        View(op, "query_start_loc", query_start_loc), pad_slot));
  return out;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, causal_conv1d_weight_pack, vk::binding::Packed);
VK_IMPL(CPU, causal_conv1d_fwd_cpu, vk::binding::Forward);
VK_IMPL(CPU, causal_conv1d_update_cpu, vk::binding::Update);
VK_IMPL(CPU, causal_conv1d_update_cpu_vec, vk::binding::UpdateVec);
