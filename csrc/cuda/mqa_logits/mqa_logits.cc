#include "cuda/mqa_logits/mqa_logits.h"

#include <algorithm>
#include <bit>

#include "core/check.h"
#include "cuda/common/rows.h"
#include "cuda/mqa_logits/launch.h"
#include "cuda/sm90/device.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::cuda::CheckRowsAligned;
using vk::cuda::Cut;
using namespace vk::cuda::mqa_logits;

constexpr int64_t kAlignment = 16;  // of what bulk copies read
constexpr int64_t kSlotBytes = kDepth + sizeof(float);

int32_t Count(const char* op, const char* what, int64_t count) {
  VK_CHECK(count <= INT32_MAX / 2, "%s: %lld %s, want at most 2^30", op, Print(count), what);
  return static_cast<int32_t>(count);
}

// Bytes between rows of a float8 matrix: tensor maps know none that overlap.
int64_t Distance(const char* op, const Arg& arg, int dim, int64_t least) {
  if (arg.size(dim) <= 1) return least;
  VK_CHECK(arg.stride(dim) >= least, "%s: %s has stride %lld in dimension %d, want at least %lld",
           op, arg.name(), Print(arg.stride(dim)), dim, Print(least));
  return arg.stride(dim);
}

Queries CheckRows(const char* op, Problem& p, const vk_tensor* logits_tensor,
                  const vk_tensor* query_tensor, const vk_tensor* weights_tensor) {
  const Arg logits(op, "logits", logits_tensor), query(op, "query", query_tensor),
      weights(op, "weights", weights_tensor);
  query.Dtype({VK_F8E4M3}).Dims(3).Size(2, kDepth).LastDimContiguous();
  const int64_t heads = query.size(1);
  VK_CHECK(heads == 32 || heads == 64, "%s: query has %lld heads, want 32 or 64", op, Print(heads));
  CheckRowsAligned(op, query, kAlignment);
  weights.Dtype({VK_F32}).Dims(2).Size(0, query.size(0)).Size(1, heads).LastDimContiguous();
  CheckRowsAligned(op, weights, kAlignment);
  logits.Dtype({VK_F32}).Dims(2).Size(0, query.size(0)).LastDimContiguous();
  p.rows = Count(op, "queries", query.size(0));
  p.columns = Count(op, "columns of logits", logits.size(1));
  p.logits = static_cast<float*>(logits_tensor->data);
  p.logits_stride = logits.stride(0);
  p.weights = static_cast<const float*>(weights_tensor->data);
  p.weights_stride = weights.stride(0);
  return {query_tensor->data, Distance(op, query, 0, heads * kDepth),
          Distance(op, query, 1, kDepth), static_cast<int32_t>(heads)};
}

const int32_t* PerRow(const char* op, const char* name, const vk_tensor* tensor, int64_t rows) {
  Arg(op, name, tensor).Dtype({VK_I32}).Dims(1).Size(0, rows).Contiguous();
  return static_cast<const int32_t*>(tensor->data);
}

// The parts of a schedule.
int32_t CheckSchedule(const char* op, const vk_tensor* schedule) {
  const Arg cuts(op, "schedule", schedule);
  cuts.Dtype({VK_I32}).Dims(2).Size(1, 2).Contiguous();
  VK_CHECK(cuts.size(0) >= 2, "%s: schedule has %lld rows, want 2 or more", op,
           Print(cuts.size(0)));
  return Count(op, "parts", cuts.size(0) - 1);
}

}  // namespace

extern "C" {

vk_status vk_cuda_mqa_logits(const vk_tensor* logits, const vk_tensor* query,
                             const vk_tensor* key_tensor, const vk_tensor* key_scales,
                             const vk_tensor* weights, const vk_tensor* starts,
                             const vk_tensor* ends, bool from_start, int64_t blocks, void* stream) {
  return vk::Guard([&] {
    constexpr char kOp[] = "mqa_logits";
    Contiguous p{};
    const Queries queries = CheckRows(kOp, p, logits, query, weights);
    const Arg keys(kOp, "keys", key_tensor);
    keys.Dtype({VK_F8E4M3}).Dims(2).Size(1, kDepth).LastDimContiguous();
    CheckRowsAligned(kOp, keys, kAlignment);
    p.keys = Count(kOp, "keys", keys.size(0));
    Arg(kOp, "key_scales", key_scales).Dtype({VK_F32}).Dims(1).Size(0, p.keys).Contiguous();
    p.key_scales = static_cast<const float*>(key_scales->data);
    p.starts = PerRow(kOp, "starts", starts, p.rows);
    p.ends = PerRow(kOp, "ends", ends, p.rows);
    p.from_start = from_start;
    VK_CHECK(blocks >= 0, "%s: blocks is %lld, want at least 0", kOp, Print(blocks));
    const int64_t most = vk::cuda::sm90::CurrentHopper(kOp).multiprocessors;
    const Keys matrix{key_tensor->data, Distance(kOp, keys, 0, kDepth)};
    if (p.rows == 0 || p.keys == 0 || p.columns == 0) return;
    RunContiguous(kOp, p, queries, matrix,
                  static_cast<int32_t>(blocks == 0 ? most : std::min(blocks, most)),
                  vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_paged_mqa_logits(const vk_tensor* logits, const vk_tensor* query,
                                   const vk_tensor* cache_tensor, const vk_tensor* weights,
                                   const vk_tensor* context_lens, const vk_tensor* block_table,
                                   const vk_tensor* schedule, void* stream) {
  return vk::Guard([&] {
    constexpr char kOp[] = "paged_mqa_logits";
    Paged p{};
    const Queries queries = CheckRows(kOp, p, logits, query, weights);
    const Arg cache(kOp, "cache", cache_tensor), lengths(kOp, "context_lens", context_lens),
        table(kOp, "block_table", block_table);
    cache.Dtype({VK_U8}).Dims(3).Size(2, kSlotBytes).LastDimContiguous();
    const int64_t slots = cache.size(1);
    VK_CHECK(slots >= 8 && slots <= kKeys && std::has_single_bit(static_cast<uint64_t>(slots)),
             "%s: cache has pages of %lld slots, want 8, 16, 32 or 64", kOp, Print(slots));
    VK_CHECK(cache.stride(1) == kSlotBytes && cache.size(0) >= 1 &&
                 reinterpret_cast<uintptr_t>(cache_tensor->data) % kAlignment == 0,
             "%s: cache has strides (%lld, %lld) for shape %s, want contiguous pages aligned to 16 "
             "bytes, one at least",
             kOp, Print(cache.stride(0)), Print(cache.stride(1)),
             vk::ShapeString(*cache_tensor).c_str());
    p.cache = static_cast<const char*>(cache_tensor->data);
    p.page_bytes = Distance(kOp, cache, 0, slots * kSlotBytes);
    VK_CHECK(p.page_bytes % kAlignment == 0,
             "%s: cache has pages %lld bytes apart, want a multiple of 16", kOp,
             Print(p.page_bytes));
    p.pages = Count(kOp, "pages", cache.size(0));
    p.slots = static_cast<int32_t>(slots);
    lengths.Dtype({VK_I32}).Dims(2);
    p.batch = Count(kOp, "batch entries", lengths.size(0));
    VK_CHECK(p.batch > 0 ? p.rows % p.batch == 0 : p.rows == 0,
             "%s: query has %d rows for %d batch entries, want as many for each", kOp, p.rows,
             p.batch);
    p.queries = p.batch > 0 ? p.rows / p.batch : 0;
    if (lengths.size(1) != 1) lengths.Size(1, p.queries);
    p.context_lens = static_cast<const int32_t*>(context_lens->data);
    p.entry_stride = lengths.stride(0);
    p.query_stride = lengths.size(1) == 1 ? 0 : lengths.stride(1);
    table.Dtype({VK_I32}).Dims(2).Size(0, p.batch).LastDimContiguous();
    VK_CHECK(table.size(1) <= INT32_MAX / 2 / slots,
             "%s: block_table has %lld pages of %lld slots a row, want at most 2^30 slots", kOp,
             Print(table.size(1)), Print(slots));
    p.block_table = static_cast<const int32_t*>(block_table->data);
    p.table_stride = table.stride(0);
    p.table_width = static_cast<int32_t>(table.size(1));
    const int32_t parts = CheckSchedule(kOp, schedule);
    p.schedule = static_cast<const Cut*>(schedule->data);
    const int32_t multiprocessors = vk::cuda::sm90::CurrentHopper(kOp).multiprocessors;
    if (p.rows == 0 || p.columns == 0 || p.table_width == 0) return;
    RunPaged(kOp, p, queries, parts, multiprocessors, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_paged_mqa_logits_schedule(const vk_tensor* schedule,
                                            const vk_tensor* context_lens, void* stream) {
  return vk::Guard([&] {
    constexpr char kOp[] = "paged_mqa_logits_schedule";
    const Arg lengths(kOp, "context_lens", context_lens);
    const int32_t parts = CheckSchedule(kOp, schedule);
    lengths.Dtype({VK_I32}).Dims(2);
    const ContextLengths each{static_cast<const int32_t*>(context_lens->data), lengths.stride(0),
                              lengths.stride(1),
                              Count(kOp, "lengths of an entry", lengths.size(1))};
    RunSchedule(kOp, each, Count(kOp, "batch entries", lengths.size(0)), parts,
                static_cast<Cut*>(schedule->data), vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
