#include "cuda/attention/attention.h"

#include <algorithm>
#include <climits>

#include "core/check.h"
#include "cuda/attention/hopper.h"
#include "cuda/attention/launch.h"
#include "cuda/attention/problem.h"
#include "cuda/attention/select.h"
#include "cuda/attention/split.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"

namespace {

using vk::Arg;
using vk::cuda::attention::CacheStrides;
using vk::cuda::attention::Instance;
using vk::cuda::attention::Problem;

constexpr char kOp[] = "varlen_attention";
constexpr int64_t kMaxHeadSize = 256;
// Query rows (tokens x heads of a key/value head) up to which a request counts as decode: where all
// requests are that short, and where they go together with longer ones.
constexpr int64_t kDecodeRowsAlone = 64, kDecodeRowsMixed = 16;

// Key/value caches of quantised engines are bytes.
int32_t CacheDtype(const vk_tensor& tensor) {
  return tensor.dtype == VK_U8 ? VK_F8E4M3 : tensor.dtype;
}

// The arguments whose dtype and shape depend on each other, checked in the constructor.
struct Arguments {
  explicit Arguments(const vk_cuda_attention_args& args)
      : out(kOp, "out", args.out),
        query(kOp, "query", args.query),
        key(kOp, "key", args.key),
        value(kOp, "value", args.value),
        starts(kOp, "query_start_loc", args.query_start_loc),
        paged(args.block_table != nullptr) {
    query.Dtype({VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    out.SameDtype(query).Dims(3).Size(0, query.size(0)).Size(1, query.size(1)).LastDimContiguous();
    CheckCache(key);
    CheckCache(value);
    key.Size(-1, query.size(2));
    value.Size(-1, out.size(2));
    VK_CHECK(CacheDtype(value.tensor()) == CacheDtype(key.tensor()),
             "%s: value is %s, want %s as key", kOp, vk::DtypeName(value.tensor().dtype),
             vk::DtypeName(key.tensor().dtype));
    for (int32_t dim = 0; dim < key.tensor().ndim - 1; ++dim) value.Size(dim, key.size(dim));
    starts.Dtype({VK_I32}).Dims(1).Contiguous();
    VK_CHECK(starts.size(0) >= 1, "%s: query_start_loc is empty, want requests + 1 values", kOp);
    VK_CHECK(kv_heads() > 0 && heads() % kv_heads() == 0,
             "%s: query has %lld heads, want a multiple of the %lld heads of key", kOp,
             vk::Print(heads()), vk::Print(kv_heads()));
    const int64_t head_size = std::max(query.size(2), out.size(2));
    if (query.size(2) <= 0 || out.size(2) <= 0 || head_size > kMaxHeadSize) {
      vk::Fail(VK_UNSUPPORTED, "%s: head sizes are %lld and %lld, want 1 to %lld", kOp,
               vk::Print(query.size(2)), vk::Print(out.size(2)), vk::Print(kMaxHeadSize));
    }
    VK_CHECK(!paged || key.size(1) > 0, "%s: key has blocks without slots", kOp);
  }

  void CheckCache(const Arg& cache) const {
    cache.Dims(paged ? 4 : 3).LastDimContiguous();
    if (cache.tensor().dtype == query.tensor().dtype) return;
    if (CacheDtype(cache.tensor()) == VK_F8E4M3) return;
    cache.Dtype({static_cast<vk_dtype>(query.tensor().dtype), VK_F8E4M3, VK_U8});
  }

  int64_t tokens() const { return query.size(0); }
  int64_t requests() const { return starts.size(0) - 1; }
  int64_t heads() const { return query.size(1); }
  int64_t kv_heads() const { return key.size(-2); }
  int64_t group() const { return heads() / kv_heads(); }
  bool IsEmpty() const { return tokens() == 0 || requests() == 0 || heads() == 0; }
  bool fp8() const { return CacheDtype(key.tensor()) == VK_F8E4M3; }

  Arg out, query, key, value, starts;
  bool paged;
};

const int32_t* Integers(const char* name, const vk_tensor* tensor, int32_t ndim, int64_t rows,
                        int64_t* stride = nullptr) {
  const Arg arg(kOp, name, tensor);
  arg.Dtype({VK_I32}).Dims(ndim).LastDimContiguous();
  VK_CHECK(arg.size(0) >= rows, "%s: %s has shape %s, want at least %lld in dimension 0", kOp, name,
           vk::ShapeString(*tensor).c_str(), vk::Print(rows));
  if (stride != nullptr) *stride = arg.stride(0);
  return static_cast<const int32_t*>(tensor->data);
}

// Scales of the cache: one value, or one a request and key/value head with any strides.
const float* Scales(const char* name, const vk_tensor* tensor, const Arguments& args,
                    int64_t& request_stride, int64_t& head_stride) {
  request_stride = head_stride = 0;
  if (tensor == nullptr) return nullptr;
  const Arg arg(kOp, name, tensor);
  arg.Dtype({VK_F32});
  VK_CHECK(args.fp8(), "%s: %s is given, but key is %s, want float8_e4m3fn", kOp, name,
           vk::DtypeName(args.key.tensor().dtype));
  if (vk::NumElements(*tensor) != 1) {
    arg.Dims(2).Size(1, args.kv_heads());
    VK_CHECK(arg.size(0) >= args.requests(), "%s: %s has shape %s, want one value or [%lld, %lld]",
             kOp, name, vk::ShapeString(*tensor).c_str(), vk::Print(args.requests()),
             vk::Print(args.kv_heads()));
    request_stride = arg.stride(0);
    head_stride = arg.stride(1);
  }
  return static_cast<const float*>(tensor->data);
}

int32_t Window(const char* name, int64_t window) {
  VK_CHECK(window >= -1, "%s: %s is %lld, want -1 (none) or a number of keys", kOp, name,
           vk::Print(window));
  return window < 0 || window > INT32_MAX ? INT32_MAX : static_cast<int32_t>(window);
}

CacheStrides Strides(const Arg& cache) {
  const int64_t item = vk::DtypeSize(cache.tensor().dtype);
  const bool paged = cache.tensor().ndim == 4;
  return {paged ? cache.stride(0) * item : 0, cache.stride(-3) * item, cache.stride(-2) * item};
}

void SetKeys(Problem& problem, const vk_cuda_attention_args& call, const Arguments& args) {
  problem.key = call.key->data;
  problem.value = call.value->data;
  problem.key_strides = Strides(args.key);
  problem.value_strides = Strides(args.value);
  if (!args.paged) {
    VK_CHECK(call.key_start_loc != nullptr,
             "%s: neither block_table nor key_start_loc is given, want one of them", kOp);
    problem.key_start = Integers("key_start_loc", call.key_start_loc, 1, args.requests() + 1);
    problem.blocks = 1;
  } else {
    VK_CHECK(call.key_start_loc == nullptr,
             "%s: both block_table and key_start_loc are given, want one of them", kOp);
    VK_CHECK(call.seq_lens != nullptr, "%s: seq_lens is missing, block_table needs it", kOp);
    problem.block_table =
        Integers("block_table", call.block_table, 2, args.requests(), &problem.table_stride);
    problem.blocks = static_cast<int32_t>(args.key.size(0));
    problem.block_size = static_cast<int32_t>(args.key.size(1));
    VK_CHECK(problem.blocks > 0 || call.max_seq_len <= 0,
             "%s: key has no blocks, want some for the %lld keys of max_seq_len", kOp,
             vk::Print(call.max_seq_len));
    // A cache without blocks has no keys, whatever the lengths say.
    problem.pages = static_cast<int32_t>(
        problem.blocks == 0
            ? 0
            : std::min<int64_t>(call.block_table->shape[1], INT32_MAX / problem.block_size));
    // A table without columns may lie nowhere, which says elsewhere that keys are packed.
    if (problem.pages == 0) problem.block_table = problem.query_start;
    const vk::cuda::attention::Reciprocal page(static_cast<uint32_t>(problem.block_size));
    problem.page_factor = page.factor;
    problem.page_shift = page.shift;
  }
  if (call.seq_lens != nullptr) {
    problem.seq_lens = Integers("seq_lens", call.seq_lens, 1, args.requests());
  }
  using vk::cuda::RowsAligned;
  const int64_t item = vk::DtypeSize(call.key->dtype);
  problem.kv_vector = RowsAligned(*call.key, 16) && RowsAligned(*call.value, 16) &&
                      args.key.size(-1) * item % 16 == 0 && args.value.size(-1) * item % 16 == 0;
}

void SetExtras(Problem& problem, const vk_cuda_attention_args& call, const Arguments& args) {
  if (call.dynamic_causal != nullptr) {
    const Arg causal(kOp, "dynamic_causal", call.dynamic_causal);
    causal.Dtype({VK_BOOL}).Dims(1).Contiguous();
    VK_CHECK(causal.size(0) >= args.requests(),
             "%s: dynamic_causal has shape %s, want at least %lld in dimension 0", kOp,
             vk::ShapeString(causal.tensor()).c_str(), vk::Print(args.requests()));
    problem.dynamic_causal = static_cast<const uint8_t*>(call.dynamic_causal->data);
  }
  if (call.alibi_slopes != nullptr) {
    const Arg slopes(kOp, "alibi_slopes", call.alibi_slopes);
    slopes.Dtype({VK_F32}).MinDims(1).Size(-1, args.heads()).LastDimContiguous();
    if (slopes.tensor().ndim != 1) {
      slopes.Dims(2).Size(0, args.requests());
      problem.alibi_request_stride = slopes.stride(0);
    }
    problem.alibi = static_cast<const float*>(call.alibi_slopes->data);
  }
  if (call.sinks != nullptr) {
    const Arg sinks(kOp, "sinks", call.sinks);
    sinks.Dtype({VK_F32, static_cast<vk_dtype>(call.query->dtype)});
    sinks.Dims(1).Size(0, args.heads()).Contiguous();
    problem.sinks = call.sinks->data;
    problem.sinks_are_float = call.sinks->dtype == VK_F32;
  }
  problem.k_scale = Scales("k_scale", call.k_scale, args, problem.k_scale_request_stride,
                           problem.k_scale_head_stride);
  problem.v_scale = Scales("v_scale", call.v_scale, args, problem.v_scale_request_stride,
                           problem.v_scale_head_stride);
  if (call.softmax_lse != nullptr) {
    const Arg lse(kOp, "softmax_lse", call.softmax_lse);
    lse.Dtype({VK_F32}).Dims(2).Size(0, args.heads()).Size(1, args.tokens()).LastDimContiguous();
    problem.lse = static_cast<float*>(call.softmax_lse->data);
    problem.lse_head_stride = lse.stride(0);
  }
  VK_CHECK(call.softcap >= 0, "%s: softcap is %g, want 0 (none) or a positive number", kOp,
           call.softcap);
  problem.softcap = static_cast<float>(call.softcap);
  problem.scale = static_cast<float>(call.scale);
  problem.causal = call.causal != 0;
  problem.window_left = Window("window_left", call.window_left);
  problem.window_right = Window("window_right", call.window_right);
}

Problem MakeProblem(const vk_cuda_attention_args& call, const Arguments& args) {
  Problem problem{};
  problem.query = call.query->data;
  problem.out = call.out->data;
  problem.query_start = static_cast<const int32_t*>(call.query_start_loc->data);
  problem.query_token_stride = args.query.stride(0);
  problem.query_head_stride = args.query.stride(1);
  problem.out_token_stride = args.out.stride(0);
  problem.out_head_stride = args.out.stride(1);
  problem.tokens = static_cast<int32_t>(args.tokens());
  problem.requests = static_cast<int32_t>(args.requests());
  problem.heads = static_cast<int32_t>(args.heads());
  problem.kv_heads = static_cast<int32_t>(args.kv_heads());
  problem.group = static_cast<int32_t>(args.group());
  problem.head_size = static_cast<int32_t>(args.query.size(2));
  problem.value_head_size = static_cast<int32_t>(args.out.size(2));
  using vk::cuda::RowsAligned;
  problem.query_vector = RowsAligned(*call.query, 16) && args.query.size(2) % 8 == 0;
  problem.out_vector = RowsAligned(*call.out, 16) && args.out.size(2) % 8 == 0;
  SetKeys(problem, call, args);
  SetExtras(problem, call, args);
  return problem;
}

// What is launched, and with what memory.
struct Plan {
  const Instance* instance;
  int32_t decode_warps;
  int32_t prefill_stages;  // 0: all requests are the decode kernel's
  bool hopper;             // which serves prefill then
  int64_t partials;        // bytes of the workspace for splits; what Hopper needs is behind them,
  int64_t dequantized;     // and, in so many bytes, the copies of a float8 cache
  int64_t workspace;       // bytes
};

// Where copies of the cache begin in the workspace.
constexpr int64_t DequantizedOffset(int64_t partials) {
  return vk::cuda::RoundUp(partials + vk::cuda::attention::kHopperWorkspace, 256);
}

Plan MakePlan(Problem& problem, const vk_cuda_attention_args& call, const Arguments& args) {
  const vk::cuda::Device& device = vk::cuda::CurrentDevice(kOp);
  if (device.capability < 75 || (device.capability < 80 && call.query->dtype == VK_BF16)) {
    vk::Fail(VK_UNSUPPORTED, "%s: the GPU is %d.%d, want 8.0 or newer (7.5 for float16)", kOp,
             device.capability / 10, device.capability % 10);
  }
  VK_CHECK(call.max_query_len >= 0 && call.max_seq_len >= 0,
           "%s: max_query_len is %lld and max_seq_len %lld, want 0 or more", kOp,
           vk::Print(call.max_query_len), vk::Print(call.max_seq_len));
  VK_CHECK(call.max_seq_len <= INT32_MAX, "%s: max_seq_len is %lld, want at most %d", kOp,
           vk::Print(call.max_seq_len), INT32_MAX);
  VK_CHECK(args.requests() <= 65535, "%s: %lld requests, want at most 65535", kOp,
           vk::Print(args.requests()));
  Plan plan{};
  const bool fast = problem.query_vector && problem.kv_vector && problem.block_size % 16 == 0;
  plan.instance = &vk::cuda::attention::SelectInstance(
      call.query->dtype, args.fp8(), std::max(problem.head_size, problem.value_head_size), fast);
  const Instance& instance = *plan.instance;
  plan.decode_warps = instance.decode_warps(device.shared_bytes);
  for (int32_t stages = 1; stages <= 2; ++stages) {
    if (instance.prefill_shared(stages) <= device.shared_bytes) plan.prefill_stages = stages;
  }
  const int64_t group = problem.group, longest = std::min(call.max_query_len, args.tokens());
  int64_t decode_len = std::max<int64_t>(1, kDecodeRowsMixed / group);
  if (plan.prefill_stages == 0 || longest * group <= kDecodeRowsAlone || longest <= decode_len) {
    decode_len = longest;
    plan.prefill_stages = 0;
  }
  // Where no request can be that short, since the others have at most `longest` of the tokens.
  if (plan.prefill_stages > 0 && args.tokens() - (args.requests() - 1) * longest > decode_len) {
    decode_len = 0;
  }
  problem.decode_query_len = static_cast<int32_t>(decode_len);
  problem.decode_rows = static_cast<int32_t>(decode_len * group);

  VK_CHECK(call.num_splits >= 0, "%s: num_splits is %lld, want 0 (chosen) or more", kOp,
           vk::Print(call.num_splits));
  const int64_t blocks =
      args.requests() * problem.kv_heads * vk::cuda::CeilDiv(problem.decode_rows, 16);
  const int64_t shared = instance.decode_shared(plan.decode_warps);
  const int64_t slots =
      device.multiprocessors * std::max<int64_t>(1, (device.shared_bytes + 1024) / (shared + 1024));
  int64_t keys = call.max_seq_len;
  if (problem.window_left != INT32_MAX) {
    keys = std::min<int64_t>(keys, int64_t{problem.window_left} + decode_len);
  }
  vk::cuda::attention::SplitPlan split = vk::cuda::attention::PlanSplits(
      blocks, slots, std::max<int64_t>(keys, 1), instance.decode_keys, plan.decode_warps);
  if (call.num_splits > 0) {
    split.splits =
        static_cast<int32_t>(std::min<int64_t>(call.num_splits, vk::cuda::attention::kMaxSplits));
    split.min_tiles = plan.decode_warps;
  }
  if (problem.decode_rows == 0) split.splits = 1;
  problem.splits = split.splits;
  problem.min_split_tiles = split.min_tiles;
  if (problem.splits > 1) {
    const int64_t rows = args.requests() * problem.kv_heads * problem.decode_rows * problem.splits;
    plan.partials = vk::cuda::RoundUp(rows * (problem.value_head_size + 2) * 4, 16);
  }
  plan.workspace = plan.partials;
#ifdef VK_ATTENTION_SM90
  plan.hopper = plan.prefill_stages > 0 && device.capability == 90 &&
                vk::cuda::attention::HopperServes(problem);
  if (plan.hopper && args.fp8()) {
    plan.dequantized = vk::cuda::attention::DequantizedBytes(problem, longest, call.max_seq_len);
    plan.hopper = plan.dequantized > 0;
  }
  if (plan.hopper) {
    plan.workspace = DequantizedOffset(plan.partials) + plan.dequantized;
  }
#endif
  return plan;
}

void SetWorkspace(Problem& problem, const Plan& plan, const vk_tensor* workspace) {
  if (plan.workspace == 0) return;
  const Arg arg(kOp, "workspace", workspace);
  arg.Dtype({VK_U8}).Contiguous();
  VK_CHECK(vk::NumElements(*workspace) >= plan.workspace &&
               reinterpret_cast<uintptr_t>(workspace->data) % 16 == 0,
           "%s: workspace has %lld bytes, want %lld, aligned to 16", kOp,
           vk::Print(vk::NumElements(*workspace)), vk::Print(plan.workspace));
  problem.partial_out = static_cast<float*>(workspace->data);
  const int64_t rows = int64_t{problem.requests} * problem.kv_heads * problem.decode_rows;
  problem.partial_lse = problem.partial_out + rows * problem.splits * problem.value_head_size;
}

void RunHopper([[maybe_unused]] const Problem& problem, [[maybe_unused]] const Plan& plan,
               [[maybe_unused]] const vk_cuda_attention_args& call,
               [[maybe_unused]] cudaStream_t stream) {
#ifdef VK_ATTENTION_SM90
  const vk::cuda::Device& device = vk::cuda::CurrentDevice(kOp);
  vk::cuda::attention::HopperCall hopper{};
  hopper.dtype = call.query->dtype;
  hopper.max_seq_len = call.max_seq_len;
  hopper.keys = call.block_table == nullptr ? call.key->shape[0] : 0;
  if (plan.dequantized > 0) hopper.keys = int64_t{problem.requests} * call.max_seq_len;
  hopper.multiprocessors = device.multiprocessors;
  hopper.l2_bytes = device.l2_bytes;
  hopper.workspace = static_cast<char*>(call.workspace->data) + plan.partials;
  hopper.stream = stream;
  if (plan.dequantized == 0) return vk::cuda::attention::RunHopper(kOp, problem, hopper);
  void* const copies = static_cast<char*>(call.workspace->data) + DequantizedOffset(plan.partials);
  const Problem wide = vk::cuda::attention::DequantizeCache(kOp, problem, call.query->dtype,
                                                            call.max_seq_len, copies, stream);
  vk::cuda::attention::RunHopper(kOp, wide, hopper);
#endif
}

}  // namespace

extern "C" vk_status vk_cuda_attention_workspace(const vk_cuda_attention_args* call,
                                                 int64_t* bytes) {
  return vk::Guard([&] {
    const Arguments args(*call);
    Problem problem = MakeProblem(*call, args);
    *bytes = args.IsEmpty() ? 0 : MakePlan(problem, *call, args).workspace;
  });
}

extern "C" vk_status vk_cuda_varlen_attention(const vk_cuda_attention_args* call, void* stream) {
  return vk::Guard([&] {
    const Arguments args(*call);
    Problem problem = MakeProblem(*call, args);
    if (args.IsEmpty()) return;
    const Plan plan = MakePlan(problem, *call, args);
    SetWorkspace(problem, plan, call->workspace);
    const cudaStream_t queue = vk::cuda::AsStream(stream);
    if (plan.hopper) {
      RunHopper(problem, plan, *call, queue);
    } else if (plan.prefill_stages > 0) {
      plan.instance->prefill(kOp, problem, plan.prefill_stages, queue);
    }
    if (problem.decode_rows > 0) plan.instance->decode(kOp, problem, plan.decode_warps, queue);
    vk::cuda::CheckLaunch(kOp);
  });
}
