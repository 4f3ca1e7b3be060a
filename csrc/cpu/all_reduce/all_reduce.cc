#include "cpu/all_reduce/all_reduce.h"

#include "core/check.h"
#include "cpu/all_reduce/segment.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace vk {

void SumParts(int32_t dtype, void* out, const void* const* parts, int64_t ranks, int64_t count) {
  const auto kernel = Kernels().all_reduce->sum[dtype];
  const int64_t bytes = DtypeSize(dtype);
  ParallelFor(count, GrainFor((ranks + 1) * bytes), [&](int64_t begin, int64_t end) {
    const void* from[shared::kMostRanks];
    for (int64_t rank = 0; rank < ranks; ++rank) {
      from[rank] = static_cast<const char*>(parts[rank]) + begin * bytes;
    }
    kernel(static_cast<char*>(out) + begin * bytes, from, static_cast<size_t>(ranks), end - begin);
  });
}

}  // namespace vk

extern "C" vk_status vk_cpu_rank_sum(const vk_tensor* out, const vk_tensor* parts) {
  return vk::Guard([&] {
    const char* op = "rank_sum";
    const vk::Arg from(op, "parts", parts);
    from.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    const int64_t ranks = from.size(0);
    VK_CHECK(ranks > 0 && ranks <= vk::shared::kMostRanks,
             "rank_sum: parts has shape %s, want 1 to %lld ranks", vk::ShapeString(*parts).c_str(),
             vk::Print(vk::shared::kMostRanks));
    vk::Arg(op, "out", out).SameDtype(from).Dims(1).Size(0, from.size(1)).Contiguous();
    if (from.size(1) == 0) return;
    const void* rows[vk::shared::kMostRanks];
    for (int64_t rank = 0; rank < ranks; ++rank) rows[rank] = vk::RowAt(*parts, rank);
    vk::SumParts(parts->dtype, out->data, rows, ranks, from.size(1));
  });
}
