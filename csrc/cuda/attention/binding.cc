#include "cuda/attention/attention.h"

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "torch/bind.h"

namespace vk::binding {
namespace {

using OptionalTensor = std::optional<Tensor>;

void VarlenAttention(const Tensor& out, const Tensor& query, const Tensor& key, const Tensor& value,
                     const Tensor& query_start_loc, OptionalTensor seq_lens,
                     OptionalTensor key_start_loc, OptionalTensor block_table,
                     int64_t max_query_len, int64_t max_seq_len, double scale, bool causal,
                     int64_t window_left, int64_t window_right, double softcap,
                     OptionalTensor alibi_slopes, OptionalTensor sinks, OptionalTensor k_scale,
                     OptionalTensor v_scale, OptionalTensor softmax_lse,
                     OptionalTensor dynamic_causal, int64_t num_splits) {
  const CudaScope scope("varlen_attention", query);
  const CudaView o = scope.View("out", out), q = scope.View("query", query),
                 k = scope.View("key", key), v = scope.View("value", value),
                 starts = scope.View("query_start_loc", query_start_loc),
                 lengths = scope.View("seq_lens", seq_lens),
                 key_starts = scope.View("key_start_loc", key_start_loc),
                 table = scope.View("block_table", block_table),
                 slopes = scope.View("alibi_slopes", alibi_slopes),
                 sink = scope.View("sinks", sinks), k_factor = scope.View("k_scale", k_scale),
                 v_factor = scope.View("v_scale", v_scale),
                 lse = scope.View("softmax_lse", softmax_lse),
                 dynamic = scope.View("dynamic_causal", dynamic_causal);
  vk_cuda_attention_args args{};
  args.out = o;
  args.query = q;
  args.key = k;
  args.value = v;
  args.query_start_loc = starts;
  args.seq_lens = lengths;
  args.key_start_loc = key_starts;
  args.block_table = table;
  args.dynamic_causal = dynamic;
  args.alibi_slopes = slopes;
  args.sinks = sink;
  args.k_scale = k_factor;
  args.v_scale = v_factor;
  args.softmax_lse = lse;
  args.max_query_len = max_query_len;
  args.max_seq_len = max_seq_len;
  args.scale = scale;
  args.softcap = softcap;
  args.causal = causal;
  args.window_left = window_left;
  args.window_right = window_right;
  args.num_splits = num_splits;
  int64_t bytes = 0;
  Check(vk_cuda_attention_workspace(&args, &bytes));
  const OptionalTensor memory = scope.NewBytes("workspace", query, bytes);
  const CudaView workspace = scope.View("workspace", memory);
  args.workspace = workspace;
  Check(vk_cuda_varlen_attention(&args, scope.stream()));
}

void MergeAttnStates(const Tensor& output, OptionalTensor output_lse, const Tensor& prefix_output,
                     const Tensor& prefix_lse, const Tensor& suffix_output,
                     const Tensor& suffix_lse, std::optional<int64_t> prefill_tokens_with_context,
                     OptionalTensor output_scale) {
  const CudaScope scope("merge_attn_states", output);
  Check(vk_cuda_merge_attn_states(
      scope.View("output", output), scope.View("output_lse", output_lse),
      scope.View("prefix_output", prefix_output), scope.View("prefix_lse", prefix_lse),
      scope.View("suffix_output", suffix_output), scope.View("suffix_lse", suffix_lse),
      prefill_tokens_with_context.value_or(-1), scope.View("output_scale", output_scale),
      scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, varlen_attention, vk::binding::VarlenAttention);
VK_IMPL(CUDA, merge_attn_states, vk::binding::MergeAttnStates);
