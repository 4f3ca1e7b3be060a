#include "cuda/mla/mla.h"

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "torch/bind.h"

namespace vk::binding {
namespace {

using OptionalTensor = std::optional<Tensor>;

// Calls `run` with a workspace of the size that `size` says.
template <class Args, class Size, class Run>
void WithWorkspace(const CudaScope& scope, const Tensor& like, Args& args, const Size& size,
                   const Run& run) {
  int64_t bytes = 0;
  Check(size(&args, &bytes));
  const OptionalTensor memory = scope.NewBytes("workspace", like, bytes);
  const CudaView workspace = scope.View("workspace", memory);
  args.workspace = workspace;
  Check(run(&args, scope.stream()));
}

void SparseMlaAttention(const Tensor& out, const Tensor& lse, OptionalTensor max_logits,
                        const Tensor& query, const Tensor& cache, const Tensor& indices,
                        OptionalTensor topk_length, OptionalTensor attn_sink, double scale) {
  const CudaScope scope("sparse_mla_attention", query);
  const CudaView o = scope.View("out", out), sums = scope.View("lse", lse),
                 maxima = scope.View("max_logits", max_logits), q = scope.View("query", query),
                 keys = scope.View("cache", cache), selected = scope.View("indices", indices),
                 lengths = scope.View("topk_length", topk_length),
                 sinks = scope.View("attn_sink", attn_sink);
  vk_cuda_sparse_mla_args args{};
  args.out = o;
  args.lse = sums;
  args.max_logits = maxima;
  args.query = q;
  args.cache = keys;
  args.indices = selected;
  args.topk_length = lengths;
  args.attn_sink = sinks;
  args.scale = scale;
  WithWorkspace(scope, query, args, vk_cuda_sparse_mla_workspace, vk_cuda_sparse_mla_attention);
}

void MlaAttention(const Tensor& out, const Tensor& lse, const Tensor& query, const Tensor& cache,
                  const Tensor& block_table, const Tensor& seq_lens, const Tensor& schedule,
                  double scale, bool causal, OptionalTensor query_scale,
                  OptionalTensor cache_scale) {
  const CudaScope scope("mla_attention", query);
  const CudaView o = scope.View("out", out), sums = scope.View("lse", lse),
                 q = scope.View("query", query), keys = scope.View("cache", cache),
                 table = scope.View("block_table", block_table),
                 lengths = scope.View("seq_lens", seq_lens),
                 cuts = scope.View("schedule", schedule),
                 query_unit = scope.View("query_scale", query_scale),
                 cache_unit = scope.View("cache_scale", cache_scale);
  vk_cuda_mla_args args{};
  args.out = o;
  args.lse = sums;
  args.query = q;
  args.cache = keys;
  args.block_table = table;
  args.seq_lens = lengths;
  args.schedule = cuts;
  args.query_scale = query_unit;
  args.cache_scale = cache_unit;
  args.scale = scale;
  args.causal = causal;
  WithWorkspace(scope, query, args, vk_cuda_mla_workspace, vk_cuda_mla_attention);
}

Tensor MlaSchedule(const Tensor& seq_lens, int64_t queries, int64_t heads, int64_t max_keys) {
  const CudaScope scope("mla_schedule", seq_lens);
  int64_t parts = 0;
  Check(vk_cuda_mla_parts(queries, heads, &parts));
  const Tensor schedule = scope.NewEmpty("schedule", seq_lens, {parts + 1, 2}, ScalarType::Int);
  Check(vk_cuda_mla_schedule(scope.View("schedule", schedule), scope.View("seq_lens", seq_lens),
                             max_keys, scope.stream()));
  return schedule;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, sparse_mla_attention, vk::binding::SparseMlaAttention);
VK_IMPL(CUDA, mla_attention, vk::binding::MlaAttention);
VK_IMPL(CUDA, mla_schedule, vk::binding::MlaSchedule);
