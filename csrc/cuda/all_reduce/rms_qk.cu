#include "cuda/all_reduce/rms_qk.cuh"

#include <algorithm>

#include "core/check.h"
#include "cuda/all_reduce/all_reduce.h"
#include "cuda/all_reduce/plan.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"

namespace vk::cuda::all_reduce {
namespace {

void Norm(const vk_tensor* qkv, const vk_tensor* q_weight, const vk_tensor* k_weight,
          const vk_tensor* workspace, int64_t q_size, int64_t kv_size, int64_t rank, int64_t ranks,
          double eps, const vk_tensor* q_out, const vk_tensor* k_out, void* stream) {
  const char* op = "minimax_allreduce_rms_qk";
  const Arg rows(op, "qkv", qkv), queries(op, "norm_weight_q", q_weight);
  const Arg keys(op, "norm_weight_k", k_weight), work(op, "workspace", workspace);
  rows.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  const int64_t vector = 16 / rows.ItemSize();
  VK_CHECK(q_size > 0 && kv_size > 0 && q_size <= INT32_MAX / 2 && kv_size <= INT32_MAX / 2 &&
               q_size % vector == 0 && kv_size % vector == 0 && q_size + kv_size <= rows.size(1),
           "%s: q_size is %lld and kv_size %lld, want multiples of %lld within qkv's %lld columns",
           op, Print(q_size), Print(kv_size), Print(vector), Print(rows.size(1)));
  CheckRowsAligned(op, rows, 16);
  VK_CHECK(ranks >= 1 && ranks <= kMaxRanks && rank >= 0 && rank < ranks,
           "%s: rank is %lld of %lld, want one of up to %d", op, Print(rank), Print(ranks),
           kMaxRanks);
  const int64_t tokens = rows.size(0);
  VK_CHECK(tokens <= kMostTokens, "%s: qkv has %lld tokens, want at most %lld", op, Print(tokens),
           Print(kMostTokens));
  const bool wide = q_weight->dtype == VK_F32;
  if (!wide) queries.SameDtype(rows);
  keys.SameDtype(queries).Dims(1).Size(0, kv_size).Contiguous();
  queries.Dims(1).Size(0, q_size).Contiguous();
  work.Dtype({VK_I64}).Dims(1).Size(0, 3 * ranks + 2).Contiguous();
  const auto check_out = [&](const char* name, const vk_tensor* out, int64_t size) {
    Arg(op, name, out).SameDtype(rows).Dims(2).Size(0, tokens).Size(1, size).Contiguous();
  };
  check_out("q_out", q_out, q_size);
  check_out("k_out", k_out, kv_size);
  if (tokens == 0) return;
  NormProblem p = {};
  p.qkv = qkv->data;
  p.q_weight = q_weight->data;
  p.k_weight = k_weight->data;
  p.q_out = q_out->data;
  p.k_out = k_out->data;
  p.workspace = static_cast<const int64_t*>(workspace->data);
  p.token_stride = rows.stride(0);
  p.tokens = tokens;
  p.q_size = static_cast<int32_t>(q_size);
  p.k_size = static_cast<int32_t>(kv_size);
  p.rank = static_cast<int32_t>(rank);
  p.ranks = static_cast<int32_t>(ranks);
  p.epsilon = static_cast<float>(eps);
  // All blocks run at once: none waits for a peer's block that one of this rank keeps from running.
  const int64_t blocks = std::min<int64_t>(tokens, CurrentDevice(op).multiprocessors);
  DispatchFloating(qkv->dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto kernel = wide ? NormSumsKernel<T, float> : NormSumsKernel<T, T>;
    LaunchKernel(op, kernel,
                 {dim3(GridX(op, blocks)), dim3(kRowThreads), kShared, AsStream(stream)}, p);
  });
}

}  // namespace
}  // namespace vk::cuda::all_reduce

extern "C" vk_status vk_cuda_minimax_allreduce_rms_qk(
    const vk_tensor* qkv, const vk_tensor* norm_weight_q, const vk_tensor* norm_weight_k,
    const vk_tensor* workspace, int64_t q_size, int64_t kv_size, int64_t rank, int64_t nranks,
    double eps, const vk_tensor* q_out, const vk_tensor* k_out, void* stream) {
  return vk::Guard([&] {
    vk::cuda::all_reduce::Norm(qkv, norm_weight_q, norm_weight_k, workspace, q_size, kv_size, rank,
                               nranks, eps, q_out, k_out, stream);
  });
}
