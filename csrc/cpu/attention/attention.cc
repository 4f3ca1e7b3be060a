#include "cpu/attention/attention.h"

#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/checked.h"
#include "cpu/attention/checks.h"
#include "cpu/attention/plan.h"
#include "cpu/attention/run.h"
#include "cpu/dispatch.h"
#include "cpu/round.h"

namespace {

using vk::Arg;
using vk::AttentionProblem;
using vk::AttentionRequest;

constexpr char kOp[] = "cpu_attention_with_kv_cache";

// Arguments whose dtypes and shapes depend on each other; the constructor checks them.
struct Arguments {
  explicit Arguments(const vk_attention_args& args)
      : coding(vk::CodingOf(kOp, args.kv_cache_dtype)),
        query(kOp, "query", args.query),
        key(kOp, "key_cache", args.key_cache),
        value(kOp, "value_cache", args.value_cache),
        output(kOp, "output", args.output),
        starts(kOp, "query_start_loc", args.query_start_loc),
        lengths(kOp, "seq_lens", args.seq_lens),
        table(kOp, "block_table", args.block_table) {
    query.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    output.SameDtype(query).SameShape(query).LastDimContiguous();
    vk::CheckCoded(key, query, coding);
    vk::CheckCoded(value, query, coding);
    key.Dims(4).Size(3, query.size(2)).LastDimContiguous();
    value.SameShape(key).LastDimContiguous();
    starts.Dtype({VK_I32}).Dims(1).Contiguous();
    lengths.Dtype({VK_I32}).Dims(1).Contiguous();
    table.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    VK_CHECK(starts.size(0) >= 1, "%s: query_start_loc is empty, want requests + 1 values", kOp);
    AtLeast(lengths, requests());
    AtLeast(table, requests());
    VK_CHECK(kv_heads() > 0 && heads() % kv_heads() == 0,
             "%s: query has %lld heads, want a multiple of the %lld heads of key_cache", kOp,
             static_cast<long long>(heads()), static_cast<long long>(kv_heads()));
    VK_CHECK(heads() / kv_heads() <= vk::kMaxAttentionGroup,
             "%s: query has %lld heads for the %lld of key_cache, want at most %d times as many",
             kOp, static_cast<long long>(heads()), static_cast<long long>(kv_heads()),
             vk::kMaxAttentionGroup);
    vk::CheckSizes({kOp, "key_cache", "block_table"}, query.size(2), key.size(2));
  }

  void AtLeast(const Arg& arg, int64_t rows) const {
    VK_CHECK(arg.size(0) >= rows, "%s: %s has shape %s, want at least %lld in dimension 0", kOp,
             arg.name(), vk::ShapeString(arg.tensor()).c_str(), static_cast<long long>(rows));
  }

  int64_t requests() const { return starts.size(0) - 1; }
  int64_t heads() const { return query.size(1); }
  int64_t kv_heads() const { return key.size(1); }

  vk::CacheCoding coding;
  Arg query, key, value, output, starts, lengths, table;
};

AttentionProblem MakeProblem(const vk_attention_args& call, const Arguments& args) {
  AttentionProblem problem{};
  problem.query = call.query->data;
  problem.key = call.key_cache->data;
  problem.value = call.value_cache->data;
  problem.output = call.output->data;
  problem.query_token_stride = args.query.stride(0);
  problem.query_head_stride = args.query.stride(1);
  problem.output_token_stride = args.output.stride(0);
  problem.output_head_stride = args.output.stride(1);
  problem.key_block_stride = args.key.stride(0);
  problem.key_head_stride = args.key.stride(1);
  problem.key_slot_stride = args.key.stride(2);
  problem.value_block_stride = args.value.stride(0);
  problem.value_head_stride = args.value.stride(1);
  problem.value_slot_stride = args.value.stride(2);
  problem.head_size = problem.value_size = static_cast<int32_t>(args.query.size(2));
  problem.block_size = static_cast<int32_t>(args.key.size(2));
  problem.group = static_cast<int32_t>(args.heads() / args.kv_heads());
  VK_CHECK(call.sliding_window == -1 || call.sliding_window > 0,
           "%s: sliding_window_size is %lld, want -1 (none) or a positive number of keys", kOp,
           static_cast<long long>(call.sliding_window));
  const bool windowed = call.sliding_window > 0 && call.sliding_window < INT32_MAX;
  problem.window = windowed ? static_cast<int32_t>(call.sliding_window) : INT32_MAX;
  VK_CHECK(call.softcap >= 0, "%s: softcap is %g, want 0 (none) or a positive number", kOp,
           call.softcap);
  problem.softcap = static_cast<float>(call.softcap);
  problem.coding = args.coding;
  const float widened = vk::WidenedBy(args.coding);
  problem.scale = static_cast<float>(call.scale) *
                  vk::CheckedScale(kOp, "k_scale", call.k_scale, args.coding) * widened;
  problem.value_scale = vk::CheckedScale(kOp, "v_scale", call.v_scale, args.coding) * widened;
  return problem;
}

std::vector<AttentionRequest> CheckRequests(const vk_attention_args& call, const Arguments& args,
                                            const AttentionProblem& problem) {
  const uint8_t* causal = nullptr;
  if (call.dynamic_causal != nullptr) {
    const Arg arg(kOp, "dynamic_causal", call.dynamic_causal);
    arg.Dtype({VK_BOOL}).Dims(1).Contiguous();
    args.AtLeast(arg, args.requests());
    causal = static_cast<const uint8_t*>(call.dynamic_causal->data);
  }
  const int32_t* starts = static_cast<const int32_t*>(call.query_start_loc->data);
  const int32_t* lengths = static_cast<const int32_t*>(call.seq_lens->data);
  const int32_t* table = static_cast<const int32_t*>(call.block_table->data);
  std::vector<AttentionRequest> requests;
  requests.reserve(args.requests());
  for (int64_t i = 0; i < args.requests(); ++i) {
    const long long index = i, tokens = args.query.size(0);
    VK_CHECK(starts[i] >= 0 && starts[i] <= starts[i + 1] && starts[i + 1] <= tokens,
             "%s: query_start_loc[%lld] and [%lld] are %d and %d, want ascending values up to the "
             "%lld tokens of query",
             kOp, index, index + 1, starts[i], starts[i + 1], tokens);
    AttentionRequest request{};
    request.tokens = starts[i + 1] - starts[i];
    if (request.tokens == 0) continue;
    request.blocks = table + i * args.table.stride(0);
    request.first_token = starts[i];
    request.seq_len = lengths[i];
    request.causal = causal != nullptr ? causal[i] != 0 : call.causal != 0;
    VK_CHECK(request.seq_len >= request.tokens,
             "%s: seq_lens[%lld] is %d, want at least the request's %d query tokens", kOp, index,
             request.seq_len, request.tokens);
    VK_CHECK(request.seq_len <= vk::kMaxAttentionKeys, "%s: seq_lens[%lld] is %d, want at most %d",
             kOp, index, request.seq_len, vk::kMaxAttentionKeys);
    vk::CheckBlocks({kOp, "key_cache", "block_table"}, i, request, problem, args.table.size(1),
                    args.key.size(0));
    requests.push_back(request);
  }
  return requests;
}

}  // namespace

extern "C" vk_status vk_cpu_attention(const vk_attention_args* call) {
  return vk::Guard([&] {
    const Arguments args(*call);
    AttentionProblem problem = MakeProblem(*call, args);
    std::vector<float> slopes, sinks;
    if (call->alibi_slopes != nullptr) Arg(kOp, "alibi_slopes", call->alibi_slopes).Dtype({VK_F32});
    problem.alibi_slopes = PerHead(kOp, "alibi_slopes", call->alibi_slopes, args.query, slopes);
    problem.sinks = PerHead(kOp, "s_aux", call->sinks, args.query, sinks);
    const std::vector<AttentionRequest> requests = CheckRequests(*call, args, problem);
    if (requests.empty() || args.heads() == 0) return;
    vk::RunAttention(problem, *vk::Kernels().attention, requests,
                     static_cast<int32_t>(args.kv_heads()), call->query->dtype);
  });
}

extern "C" vk_status vk_cpu_attention_metadata(int64_t requests, int64_t heads, int64_t kv_heads,
                                               int64_t head_size, int32_t* metadata) {
  return vk::Guard([&] {
    const char* op = "get_scheduler_metadata";
    VK_CHECK(requests >= 0, "%s: num_req is %lld, want 0 or more", op,
             static_cast<long long>(requests));
    VK_CHECK(kv_heads > 0 && heads > 0 && heads % kv_heads == 0,
             "%s: num_heads_q is %lld, want a positive multiple of num_heads_kv, which is %lld", op,
             static_cast<long long>(heads), static_cast<long long>(kv_heads));
    VK_CHECK(head_size > 0, "%s: head_dim is %lld, want a positive number", op,
             static_cast<long long>(head_size));
    const int64_t stamp[VK_ATTENTION_METADATA_LENGTH] = {requests, heads, kv_heads, head_size};
    constexpr const char* kNames[] = {"num_req", "num_heads_q", "num_heads_kv", "head_dim"};
    for (int i = 0; i < VK_ATTENTION_METADATA_LENGTH; ++i) {
      VK_CHECK(stamp[i] <= INT32_MAX, "%s: %s is %lld, want at most %d", op, kNames[i],
               static_cast<long long>(stamp[i]), INT32_MAX);
      metadata[i] = static_cast<int32_t>(stamp[i]);
    }
  });
}

extern "C" vk_status vk_cpu_attention_has_isa(const char* isa, int32_t* has) {
  return vk::Guard([&] {
    VK_CHECK(isa != nullptr, "cpu_attn_has_isa: isa is missing");
    const bool vector = std::strcmp(isa, "vec") == 0 || std::strcmp(isa, "vec16") == 0;
    const char* tier = vk_cpu_isa();
    *has = vector ||
           (tier != nullptr && std::strcmp(isa, "amx") == 0 && std::strcmp(tier, "amx") == 0);
  });
}
