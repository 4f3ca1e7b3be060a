#include <vector>

#include "core/check.h"
#include "cpu/attention/attention.h"
#include "cpu/attention/checks.h"
#include "cpu/attention/run.h"
#include "cpu/dispatch.h"

namespace {

using vk::Arg;

constexpr char kOp[] = "mla_decode_kvcache";
constexpr vk::AttentionNames kNames = {kOp, "kv_cache", "block_tables"};

struct Arguments {
  Arguments(const vk_tensor* out_tensor, const vk_tensor* query_tensor, const vk_tensor* kv_cache,
            const vk_tensor* block_tables, const vk_tensor* seq_lens)
      : out(kOp, "out", out_tensor),
        query(kOp, "query", query_tensor),
        cache(kOp, kNames.cache, kv_cache),
        table(kOp, kNames.table, block_tables),
        lengths(kOp, "seq_lens", seq_lens) {
    query.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    out.SameDtype(query).Dims(3).Size(0, requests()).Size(1, heads()).LastDimContiguous();
    cache.SameDtype(query).Dims(3).Size(2, query.size(2)).LastDimContiguous();
    table.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    lengths.Dtype({VK_I32}).Dims(1).Contiguous();
    vk::CheckSizes(kNames, query.size(2), cache.size(1));
    VK_CHECK(out.size(2) <= query.size(2),
             "%s: out has values of %lld elements, want at most the %lld of query", kOp,
             static_cast<long long>(out.size(2)), static_cast<long long>(query.size(2)));
    VK_CHECK(heads() <= vk::kMaxAttentionGroup, "%s: query has %lld heads, want at most %d", kOp,
             static_cast<long long>(heads()), vk::kMaxAttentionGroup);
    for (const Arg* arg : {&table, &lengths}) {
      VK_CHECK(arg->size(0) >= requests(), "%s: %s has shape %s, want at least %lld in dimension 0",
               kOp, arg->name(), vk::ShapeString(arg->tensor()).c_str(),
               static_cast<long long>(requests()));
    }
  }

  int64_t requests() const { return query.size(0); }
  int64_t heads() const { return query.size(1); }

  Arg out, query, cache, table, lengths;
};

vk::AttentionProblem MakeProblem(const Arguments& args, double scale) {
  vk::AttentionProblem problem{};
  problem.query = args.query.tensor().data;
  problem.key = problem.value = args.cache.tensor().data;
  problem.output = args.out.tensor().data;
  problem.query_token_stride = args.query.stride(0);
  problem.query_head_stride = args.query.stride(1);
  problem.output_token_stride = args.out.stride(0);
  problem.output_head_stride = args.out.stride(1);
  problem.key_block_stride = problem.value_block_stride = args.cache.stride(0);
  problem.key_slot_stride = problem.value_slot_stride = args.cache.stride(1);
  problem.head_size = static_cast<int32_t>(args.query.size(2));
  // The products with the values take whole rows: what is too much is a ninth (DeepSeek's 64 of
  // 576), and the same rows of the cache serve twice.
  problem.value_size = static_cast<int32_t>(args.out.size(2));
  problem.block_size = static_cast<int32_t>(args.cache.size(1));
  problem.group = static_cast<int32_t>(args.heads());
  problem.window = INT32_MAX;
  problem.scale = static_cast<float>(scale);
  problem.value_scale = 1.0f;
  problem.coding = vk::kCachePlain;
  return problem;
}

std::vector<vk::AttentionRequest> CheckRequests(const Arguments& args,
                                                const vk::AttentionProblem& problem) {
  const int32_t* lengths = static_cast<const int32_t*>(args.lengths.tensor().data);
  const int32_t* table = static_cast<const int32_t*>(args.table.tensor().data);
  std::vector<vk::AttentionRequest> requests;
  requests.reserve(args.requests());
  for (int64_t i = 0; i < args.requests(); ++i) {
    VK_CHECK(lengths[i] >= 0 && lengths[i] <= vk::kMaxAttentionKeys,
             "%s: seq_lens[%lld] is %d, want 0 to %d", kOp, static_cast<long long>(i), lengths[i],
             vk::kMaxAttentionKeys);
    const vk::AttentionRequest request{table + i * args.table.stride(0), i, 1, lengths[i], false};
    vk::CheckBlocks(kNames, i, request, problem, args.table.size(1), args.cache.size(0));
    requests.push_back(request);
  }
  return requests;
}

}  // namespace

extern "C" vk_status vk_cpu_mla_decode(const vk_tensor* out, const vk_tensor* query,
                                       const vk_tensor* kv_cache, double scale,
                                       const vk_tensor* block_tables, const vk_tensor* seq_lens) {
  return vk::Guard([&] {
    const Arguments args(out, query, kv_cache, block_tables, seq_lens);
    const vk::AttentionProblem problem = MakeProblem(args, scale);
    const std::vector<vk::AttentionRequest> requests = CheckRequests(args, problem);
    if (requests.empty() || args.heads() == 0) return;
    vk::RunAttention(problem, *vk::Kernels().attention, requests, 1, query->dtype);
  });
}
