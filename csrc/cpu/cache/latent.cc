#include <algorithm>

#include "core/check.h"
#include "cpu/cache/cache.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace {

using vk::Arg;

constexpr const char* kOp = "concat_and_cache_mla_cpu";

}  // namespace

extern "C" vk_status vk_cpu_concat_and_cache_mla(const vk_tensor* kv_c, const vk_tensor* k_pe,
                                                 const vk_tensor* kv_cache,
                                                 const vk_tensor* slot_mapping) {
  return vk::Guard([&] {
    const Arg latent(kOp, "kv_c_normed", kv_c), rope(kOp, "k_pe", k_pe);
    const Arg cache(kOp, "kv_cache", kv_cache), slots(kOp, "slot_mapping", slot_mapping);
    latent.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
    rope.SameDtype(latent).MinDims(2).LastDimContiguous().Size(0, latent.size(0));
    if (k_pe->ndim != 2) rope.Dims(3).Size(1, 1);
    const int64_t rank = latent.size(1), width = rope.size(-1);
    cache.SameDtype(latent).Dims(3).LastDimContiguous().Size(2, rank + width);
    slots.Dtype({VK_I32, VK_I64}).Dims(1).Contiguous();
    const vk::Integers slot(*slot_mapping);
    const int64_t block_size = cache.size(1), limit = cache.size(0) * block_size;
    const int64_t tokens = std::min(latent.size(0), slots.size(0));
    for (int64_t token = 0; token < tokens; ++token) {
      VK_CHECK(slot[token] >= -1 && slot[token] < limit,
               "%s: slot_mapping has %lld at index %lld, want -1 (skipped) or 0 to %lld", kOp,
               vk::Print(slot[token]), vk::Print(token), vk::Print(limit - 1));
    }
    const auto copy = vk::Kernels().cache->copy_rows;
    const int64_t bytes = latent.ItemSize();
    vk::ParallelFor(
        tokens, vk::GrainFor(2 * (rank + width) * bytes), [&](int64_t begin, int64_t end) {
          for (int64_t token = begin; token < end; ++token) {
            if (slot[token] < 0) continue;
            const int64_t block = slot[token] / block_size;
            const int64_t at =
                block * cache.stride(0) + (slot[token] - block * block_size) * cache.stride(1);
            char* to = vk::ElementAt(*kv_cache, at);
            copy(to, 0, vk::RowAt(*kv_c, token), 0, 1, rank * bytes);
            copy(to + rank * bytes, 0, vk::RowAt(*k_pe, token), 0, 1, width * bytes);
          }
        });
  });
}
