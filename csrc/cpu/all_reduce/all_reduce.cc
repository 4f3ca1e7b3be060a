#include "cpu/all_reduce/all_reduce.h"

#include <vector>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace vk {

void SumParts(int32_t dtype, void* out, const void* const* parts, int64_t ranks, int64_t count) {
  const auto kernel = Kernels().all_reduce->sum[dtype];
  const int64_t bytes = DtypeSize(dtype);
  ParallelFor(count, GrainFor((ranks + 1) * bytes), [&](int64_t begin, int64_t end) {
    std::vector<const void*> from(static_cast<size_t>(ranks));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      from[rank] = static_cast<const char*>(parts[rank]) + begin * bytes;
    }
    kernel(static_cast<char*>(out) + begin * bytes, from.data(), from.size(), end - begin);
  });
}

}  // namespace vk

extern "C" vk_status vk_cpu_rank_sum(const vk_tensor* out, const vk_tensor* parts) {
  return vk::Guard([&] {
    const char* op = "rank_sum";
    const vk::Arg from(op, "parts", parts);
    from.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    VK_CHECK(from.size(0) > 0, "rank_sum: parts has shape %s, want at least one rank",
             vk::ShapeString(*parts).c_str());
    vk::Arg(op, "out", out).SameDtype(from).Dims(1).Size(0, from.size(1)).Contiguous();
    if (from.size(1) == 0) return;  // however many ranks there are
    std::vector<const void*> rows(static_cast<size_t>(from.size(0)));
    for (size_t rank = 0; rank < rows.size(); ++rank) rows[rank] = vk::RowAt(*parts, rank);
    vk::SumParts(parts->dtype, out->data, rows.data(), from.size(0), from.size(1));
  });
}
