#include "cpu/causal_conv1d/causal_conv1d.h"

#include <torch/csrc/stable/ops.h>

#include "torch/bind.h"

namespace vk::binding {
namespace {

// Elements of a channel one behind the other in weights as they come; here it is the channels of a
// tap, which one load takes.
Tensor Packed(const Tensor& weight) {
  const char* op = "causal_conv1d_weight_pack";
  CheckCpu(op, "weight", weight);
  CheckDims(op, "weight", weight, 2, "[dim, width]");
  const Tensor packed = torch::stable::contiguous(torch::stable::transpose(weight, 0, 1));
  return torch::stable::transpose(packed, 0, 1);
}

// Tokens outermost, whatever the order of x: what reads the result reads channels together.
Tensor OutputFor(const char* op, const Tensor& x) {
  CheckDims(op, "x", x, 2, "[dim, tokens]");
  const Tensor rows = NewZeros(op, "out", x, {x.size(1), x.size(0)});
  return torch::stable::transpose(rows, 0, 1);
}

Tensor Forward(const Tensor& x, const vk_tensor* weight, const vk_tensor* bias,
               const vk_tensor* conv_states, const vk_tensor* query_start_loc,
               const vk_tensor* cache_indices, const vk_tensor* has_initial_state, bool silu,
               int64_t pad_slot, bool /*is_vnni: the strides say it*/) {
  const char* op = "causal_conv1d_fwd_cpu";
  const Tensor out = OutputFor(op, x);
  Check(vk_cpu_causal_conv1d_fwd(View(op, "out", out), View(op, "x", x), weight, bias, conv_states,
                                 query_start_loc, cache_indices, has_initial_state, silu,
                                 pad_slot));
  return out;
}

Tensor Update(const Tensor& x, const vk_tensor* conv_states, const vk_tensor* weight,
              const vk_tensor* bias, bool silu, const vk_tensor* num_accepted_tokens,
              const vk_tensor* conv_state_indices, int64_t pad_slot, bool /*is_vnni*/) {
  const char* op = "causal_conv1d_update_cpu";
  const Tensor out = NewZeros(op, "out", x, x.sizes());
  Check(vk_cpu_causal_conv1d_update(View(op, "out", out), View(op, "x", x), conv_states, weight,
                                    bias, silu, num_accepted_tokens, conv_state_indices, pad_slot));
  return out;
}

Tensor UpdateVec(const Tensor& x, const vk_tensor* conv_state, const vk_tensor* weight,
                 const vk_tensor* bias, const std::optional<std::string>& activation,
                 const vk_tensor* conv_state_indices, const vk_tensor* query_start_loc,
                 int64_t pad_slot) {
  const char* op = "causal_conv1d_update_cpu_vec";
  const Tensor out = NewZeros(op, "out", x, x.sizes());
  Check(vk_cpu_causal_conv1d_update_vec(View(op, "out", out), View(op, "x", x), conv_state, weight,
                                        bias, activation ? activation->c_str() : nullptr,
                                        conv_state_indices, query_start_loc, pad_slot));
  return out;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, causal_conv1d_weight_pack, vk::binding::Packed);
VK_IMPL(CPU, causal_conv1d_fwd_cpu, vk::binding::Forward);
VK_IMPL(CPU, causal_conv1d_update_cpu, vk::binding::Update);
VK_IMPL(CPU, causal_conv1d_update_cpu_vec, vk::binding::UpdateVec);
