#include "cuda/mla/mla.h"

#include <bit>
#include <cmath>

#include "core/check.h"
#include "cuda/common/rows.h"
#include "cuda/mla/launch.h"
#include "cuda/sm90/device.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::Cut;
using namespace vk::cuda::mla;

constexpr int64_t kWorkspaceAlignment = 16;

int32_t Count(const char* op, const char* what, int64_t count) {
  VK_CHECK(count <= INT32_MAX, "%s: %lld %s, want at most 2^31 - 1", op, Print(count), what);
  return static_cast<int32_t>(count);
}

int32_t Multiprocessors(const char* op) {
  return vk::cuda::sm90::CurrentHopper(op).multiprocessors;
}

// What both ops have.
class Checks {
 public:
  explicit Checks(const char* op) : op_(op) {}

  void Rows(const vk_tensor* query_tensor, const vk_tensor* out_tensor,
            std::initializer_list<vk_dtype> dtypes) {
    const Arg query(op_, "query", query_tensor), out(op_, "out", out_tensor);
    query.Dtype(dtypes).Dims(4).Size(3, kHead).LastDimContiguous();
    if (query_tensor->dtype == VK_F8E4M3) {
      out.Dtype({VK_BF16});
    } else {
      out.SameDtype(query);
    }
    out.Dims(4).LastDimContiguous();
    for (int dim = 0; dim < 3; ++dim) out.Size(dim, query.size(dim));
    out.Size(3, kLatent);
    Aligned(query);
    Aligned(out);
    problem.batch = Count(op_, "batch entries", query.size(0));
    problem.queries = Count(op_, "queries", query.size(1));
    problem.heads = Count(op_, "heads", query.size(2));
    VK_CHECK(problem.heads == 0 || problem.queries <= INT32_MAX / 2 / problem.heads,
             "%s: query has %d queries of %d heads, want at most 2^30 rows", op_, problem.queries,
             problem.heads);
    problem.query = query_tensor->data;
    problem.query_batch_stride = query.stride(0);
    problem.query_token_stride = query.stride(1);
    problem.query_head_stride = query.stride(2);
    problem.out = out_tensor->data;
    problem.out_batch_stride = out.stride(0);
    problem.out_token_stride = out.stride(1);
    problem.out_head_stride = out.stride(2);
  }

  void Cache(const Arg& cache, int64_t width) {
    cache.Dims(3).LastDimContiguous().Size(2, width);
    Aligned(cache);
    const int64_t blocks = cache.size(0), slots = cache.size(1);
    VK_CHECK(slots > 0 && std::has_single_bit(static_cast<uint64_t>(slots)),
             "%s: cache has blocks of %lld slots, want a power of two", op_, Print(slots));
    VK_CHECK(blocks <= INT32_MAX / slots,
             "%s: cache has %lld blocks of %lld slots, want at most 2^31 - 1 slots", op_,
             Print(blocks), Print(slots));
    problem.slots = static_cast<int32_t>(blocks * slots);
    problem.block_shift = std::countr_zero(static_cast<uint64_t>(slots));
    problem.cache = static_cast<const char*>(cache.tensor().data);
    problem.block_stride = Units(cache, 0);
    problem.slot_stride = Units(cache, 1);
    const int64_t last = (blocks - 1) * problem.block_stride + (slots - 1) * problem.slot_stride;
    VK_CHECK(last <= UINT32_MAX, "%s: cache spans %lld times 16 bytes, want at most 64 GiB", op_,
             Print(last));
  }

  float* PerRow(const char* name, const vk_tensor* tensor) const {
    Arg(op_, name, tensor)
        .Dtype({VK_F32})
        .Dims(3)
        .Size(0, problem.batch)
        .Size(1, problem.heads)
        .Size(2, problem.queries)
        .Contiguous();
    return static_cast<float*>(tensor->data);
  }

  const int32_t* PerEntry(const char* name, const vk_tensor* tensor) const {
    Arg(op_, name, tensor).Dtype({VK_I32}).Dims(1).Size(0, problem.batch).Contiguous();
    return static_cast<const int32_t*>(tensor->data);
  }

  void Scale(double scale) {
    VK_CHECK(scale > 0 && std::isfinite(scale), "%s: scale is %g, want a number above 0", op_,
             scale);
    problem.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  }

  // Room for results of `partial_tiles` tiles of rows.
  int64_t Workspace() const {
    const int64_t floats = partial_tiles * kRows * (kLatent + 2);
    return floats * static_cast<int64_t>(sizeof(float));
  }
  void SetWorkspace(const vk_tensor* tensor) {
    const int64_t bytes = Workspace();
    if (bytes == 0) return;
    const Arg workspace(op_, "workspace", tensor);
    workspace.Dtype({VK_U8}).Dims(1).Contiguous();
    VK_CHECK(workspace.size(0) >= bytes &&
                 reinterpret_cast<uintptr_t>(tensor->data) % kWorkspaceAlignment == 0,
             "%s: workspace has %lld bytes, want %lld aligned to 16", op_, Print(workspace.size(0)),
             Print(bytes));
    problem.partial_out = static_cast<float*>(tensor->data);
    problem.partial_lse = problem.partial_out + partial_tiles * kRows * kLatent;
  }

  bool empty() const { return problem.batch == 0 || problem.queries == 0 || problem.heads == 0; }

  Problem problem{};
  int64_t partial_tiles = 0;

 private:
  void Aligned(const Arg& arg) const { vk::cuda::CheckRowsAligned(op_, arg, 16); }
  // A stride in units of 16 bytes; that of one block or slot means nothing.
  uint32_t Units(const Arg& cache, int dim) const {
    if (cache.size(dim) <= 1) return 0;
    const int64_t most = INT64_C(16) * UINT32_MAX / vk::DtypeSize(cache.tensor().dtype);
    VK_CHECK(cache.stride(dim) >= 0 && cache.stride(dim) <= most,
             "%s: cache has stride %lld in dimension %d, want at most 64 GiB", op_,
             Print(cache.stride(dim)), dim);
    return static_cast<uint32_t>(vk::DtypeSize(cache.tensor().dtype) * cache.stride(dim) / 16);
  }

  const char* op_;
};

struct Sparse : Checks {
  static constexpr char kOp[] = "sparse_mla_attention";

  explicit Sparse(const vk_cuda_sparse_mla_args& args) : Checks(kOp) {
    Rows(args.query, args.out, {VK_BF16});
    const Arg cache(kOp, "cache", args.cache), indices(kOp, "indices", args.indices);
    quantized = args.cache->dtype != VK_BF16;
    if (quantized) cache.Dtype({VK_BF16, VK_U8, VK_F8E4M3});
    Cache(cache, quantized ? kQuantizedKeyBytes : kHead);
    indices.Dtype({VK_I32}).Dims(3).Size(0, problem.batch).Size(1, problem.queries);
    indices.LastDimContiguous();
    problem.topk = Count(kOp, "indices a query", indices.size(2));
    VK_CHECK(problem.topk <= INT32_MAX / 2, "%s: %d indices a query, want at most 2^30", kOp,
             problem.topk);
    problem.indices = static_cast<const int32_t*>(args.indices->data);
    problem.index_batch_stride = indices.stride(0);
    problem.index_token_stride = indices.stride(1);
    problem.lse = PerRow("lse", args.lse);
    if (args.max_logits != nullptr) problem.max_logits = PerRow("max_logits", args.max_logits);
    if (args.topk_length != nullptr) problem.lengths = PerEntry("topk_length", args.topk_length);
    if (args.attn_sink != nullptr) {
      const Arg sink(kOp, "attn_sink", args.attn_sink);
      sink.Dtype({VK_F32}).Dims(1).Size(0, problem.heads).Contiguous();
      problem.sink = static_cast<const float*>(args.attn_sink->data);
    }
    Scale(args.scale);
    const int64_t rows =
        int64_t{problem.batch} * problem.queries * vk::cuda::CeilDiv(problem.heads, kRows);
    multiprocessors = Multiprocessors(kOp);
    const Plan plan = ChoosePlan(rows, problem.topk, multiprocessors);
    problem.splits = plan.splits;
    problem.pairs = plan.pairs;
    problem.works = Count(kOp, "parts of tiles of 64 heads", rows * plan.splits);
    if (plan.splits > 1) partial_tiles = rows * plan.splits;
  }

  bool quantized;
  int32_t multiprocessors;
};

struct Dense : Checks {
  static constexpr char kOp[] = "mla_attention";

  explicit Dense(const vk_cuda_mla_args& args) : Checks(kOp) {
    Rows(args.query, args.out, {VK_BF16, VK_F16, VK_F8E4M3});
    const Arg query(kOp, "query", args.query), cache(kOp, "cache", args.cache),
        table(kOp, "block_table", args.block_table), schedule(kOp, "schedule", args.schedule);
    cache.SameDtype(query);
    Cache(cache, kHead);
    table.Dtype({VK_I32}).Dims(2).Size(0, problem.batch).LastDimContiguous();
    VK_CHECK(table.size(1) <= INT32_MAX / 2 >> problem.block_shift,
             "%s: block_table has %lld blocks of %d slots a row, want at most 2^30 slots", kOp,
             Print(table.size(1)), 1 << problem.block_shift);
    problem.topk = static_cast<int32_t>(table.size(1) << problem.block_shift);
    problem.indices = static_cast<const int32_t*>(args.block_table->data);
    problem.index_batch_stride = table.stride(0);
    problem.lengths = PerEntry("seq_lens", args.seq_lens);
    problem.causal = args.causal && problem.queries > 1;
    problem.query_scale = Float8Scale("query_scale", args.query_scale, args.query->dtype);
    problem.cache_scale = Float8Scale("cache_scale", args.cache_scale, args.query->dtype);
    problem.lse = PerRow("lse", args.lse);
    Scale(args.scale);
    const int32_t parts = problem.parts =
        DenseParts(problem.queries, problem.heads, Multiprocessors(kOp));
    schedule.Dtype({VK_I32}).Dims(2).Size(1, 2).Contiguous();
    VK_CHECK(schedule.size(0) > parts, "%s: schedule has %lld rows, want at least %d", kOp,
             Print(schedule.size(0)), parts + 1);
    problem.schedule = static_cast<const Cut*>(args.schedule->data);
    if (parts > 1) partial_tiles = 2 * parts * DenseTiles(problem.queries, problem.heads);
  }

  static const float* Float8Scale(const char* name, const vk_tensor* tensor, int32_t dtype) {
    if (tensor == nullptr) return nullptr;
    VK_CHECK(dtype == VK_F8E4M3, "%s: %s is given, but query is %s, want float8_e4m3", kOp, name,
             vk::DtypeName(dtype));
    Arg(kOp, name, tensor).Dtype({VK_F32}).Dims(1).Size(0, 1);
    return static_cast<const float*>(tensor->data);
  }
};

}  // namespace

extern "C" {

vk_status vk_cuda_sparse_mla_workspace(const vk_cuda_sparse_mla_args* args, int64_t* bytes) {
  return vk::Guard([&] { *bytes = Sparse(*args).Workspace(); });
}

vk_status vk_cuda_sparse_mla_attention(const vk_cuda_sparse_mla_args* args, void* stream) {
  return vk::Guard([&] {
    Sparse checked(*args);
    if (checked.empty()) return;
    checked.SetWorkspace(args->workspace);
    RunSparse(Sparse::kOp, checked.problem, checked.quantized, checked.multiprocessors,
              vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_mla_workspace(const vk_cuda_mla_args* args, int64_t* bytes) {
  return vk::Guard([&] { *bytes = Dense(*args).Workspace(); });
}

vk_status vk_cuda_mla_attention(const vk_cuda_mla_args* args, void* stream) {
  return vk::Guard([&] {
    Dense checked(*args);
    if (checked.empty()) return;
    checked.SetWorkspace(args->workspace);
    RunDense(Dense::kOp, checked.problem, args->query->dtype, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_mla_parts(int64_t queries, int64_t heads, int64_t* parts) {
  return vk::Guard([&] {
    constexpr char kOp[] = "mla_schedule";
    VK_CHECK(queries >= 0 && heads >= 0 && queries <= INT32_MAX / 2 &&
                 (heads == 0 || queries <= INT32_MAX / 2 / heads),
             "%s: %lld queries of %lld heads, want at most 2^30 rows", kOp, Print(queries),
             Print(heads));
    *parts = DenseParts(queries, heads, Multiprocessors(kOp));
  });
}

vk_status vk_cuda_mla_schedule(const vk_tensor* schedule, const vk_tensor* seq_lens,
                               int64_t max_keys, void* stream) {
  return vk::Guard([&] {
    constexpr char kOp[] = "mla_schedule";
    const Arg cuts(kOp, "schedule", schedule), lengths(kOp, "seq_lens", seq_lens);
    cuts.Dtype({VK_I32}).Dims(2).Size(1, 2).Contiguous();
    lengths.Dtype({VK_I32}).Dims(1).Contiguous();
    VK_CHECK(max_keys >= 0 && max_keys <= INT32_MAX / 2, "%s: max_keys is %lld, want 0 to 2^30",
             kOp, Print(max_keys));
    RunSchedule(kOp, static_cast<const int32_t*>(seq_lens->data),
                Count(kOp, "batch entries", lengths.size(0)), static_cast<int32_t>(max_keys),
                Count(kOp, "parts", cuts.size(0) - 1), static_cast<Cut*>(schedule->data),
                vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
