#include "cpu/sampling/drafting.h"
#include "cpu/sampling/sampling.h"

#include <torch/csrc/stable/ops.h>

#include "torch/bind.h"

namespace vk::binding {
namespace {

Tensor Tokens(const char* op, const Tensor& logits) {
  CheckDims(op, "logits", logits, 2, "[tokens, vocabulary]");
  return NewEmpty(op, "tokens", logits, {logits.size(0)}, ScalarType::Long);
}

Tensor GreedyArgmax(const Tensor& logits) {
  const char* op = "greedy_argmax";
  const Tensor tokens = Tokens(op, logits);
  Check(vk_cpu_greedy_argmax(View(op, "tokens", tokens), View(op, "logits", logits)));
  return tokens;
}

Tensor FusedGumbelArgmax(const Tensor& logits, const Tensor& seeds) {
  const char* op = "fused_gumbel_argmax";
  const Tensor tokens = Tokens(op, logits);
  Check(vk_cpu_fused_gumbel_argmax(View(op, "tokens", tokens), View(op, "logits", logits),
                                   View(op, "seeds", seeds)));
  return tokens;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, greedy_argmax, vk::binding::GreedyArgmax);
VK_IMPL(CPU, fused_gumbel_argmax, vk::binding::FusedGumbelArgmax);
VK_BIND(CPU, expand_kernel_impl, vk_cpu_expand);
VK_BIND(CPU, rejection_greedy_sample_kernel_impl, vk_cpu_rejection_greedy_sample);
VK_BIND(CPU, rejection_random_sample_kernel_impl, vk_cpu_rejection_random_sample);
VK_BIND(CPU, sample_recovered_tokens_kernel_impl, vk_cpu_sample_recovered_tokens);
VK_BIND(CPU, eagle_prepare_inputs_padded_kernel_impl, vk_cpu_eagle_prepare_inputs);
VK_BIND(CPU, eagle_prepare_next_token_padded_kernel_impl, vk_cpu_eagle_prepare_next_token);
VK_BIND(CPU, eagle_step_slot_mapping_metadata_kernel_impl, vk_cpu_eagle_step_slot_mapping);
VK_BIND(CPU, copy_and_expand_eagle_inputs_kernel_impl, vk_cpu_copy_and_expand_eagle_inputs);
VK_BIND(CPU, copy_and_expand_dflash_inputs_kernel_impl, vk_cpu_copy_and_expand_dflash_inputs);
