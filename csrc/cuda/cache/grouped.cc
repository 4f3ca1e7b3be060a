// Checks of concat_and_cache_mla_grouped.
#include "core/check.h"
#include "cuda/cache/cache.h"
#include "cuda/cache/check.h"
#include "cuda/common/rows.h"

namespace {

using vk::Arg;
using vk::Print;
using namespace vk::cuda;
using namespace vk::cuda::cache;

constexpr char kOp[] = "concat_and_cache_mla_grouped";

}  // namespace

extern "C" vk_status vk_cuda_concat_and_cache_mla_grouped(
    const vk_tensor* kv_c, const vk_tensor* k_pe, const vk_tensor* kv_cache_ptrs,
    const vk_tensor* slot_mapping, int64_t block_size, int64_t block_stride, int64_t entry_stride,
    const vk_tensor* kv_scales, const char* kv_cache_dtype, void* stream) {
  return vk::Guard([&] {
    const Format format = FormatOf(kOp, kv_cache_dtype);
    const Arg latents(kOp, "kv_c", kv_c), ropes(kOp, "k_pe", k_pe);
    latents.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(3).LastDimContiguous();
    ropes.SameDtype(latents).Dims(3).LastDimContiguous();
    const int64_t layers = latents.size(0), tokens = latents.size(1);
    const int64_t rank = latents.size(2), rope = ropes.size(2);
    ropes.Size(0, layers).Size(1, tokens);
    VK_CHECK(layers <= 65535, "%s: kv_c has %lld layers, want at most 65535", kOp, Print(layers));
    Arg(kOp, "kv_cache_ptrs", kv_cache_ptrs).Dtype({VK_I64}).Dims(1).Size(0, layers).Contiguous();
    const Arg slots(kOp, "slot_mapping", slot_mapping);
    slots.Dtype({VK_I64}).Dims(2).Size(0, layers).LastDimContiguous();
    VK_CHECK(block_size > 0 && block_size < (int64_t{1} << 31),
             "%s: block_size is %lld, want 1 to 2^31 - 1", kOp, Print(block_size));
    VK_CHECK(entry_stride >= rank + rope && block_stride >= 0,
             "%s: block_stride is %lld and entry_stride %lld, want strides of entries of %lld "
             "elements",
             kOp, Print(block_stride), Print(entry_stride), Print(rank + rope));

    GroupedWrite write = {};
    int64_t scale_stride = 0;
    if (format != Format::kSame) {
      const Arg scales(kOp, "kv_scales", kv_scales);
      scales.Size(0, layers);
      write.scales = CheckScale(kOp, "kv_scales", kv_scales, format, layers, &scale_stride);
    }
    write.latents = kv_c->data;
    write.ropes = k_pe->data;
    write.caches = static_cast<const int64_t*>(kv_cache_ptrs->data);
    write.slots = static_cast<const int64_t*>(slot_mapping->data);
    write.latent_layer = latents.stride(0);
    write.latent_token = latents.stride(1);
    write.rope_layer = ropes.stride(0);
    write.rope_token = ropes.stride(1);
    write.slot_layer = slots.stride(0);
    write.block_stride = block_stride;
    write.entry_stride = entry_stride;
    write.block_size = block_size;
    write.layers = layers;
    const int64_t vector = 16 / latents.ItemSize();
    const bool aligned = rank % vector == 0 && rope % vector == 0 && RowsAligned(*kv_c, 16) &&
                         RowsAligned(*k_pe, 16) && block_stride % vector == 0 &&
                         entry_stride % vector == 0;
    write.latent_pieces = static_cast<int32_t>(aligned ? rank / vector : rank);
    const int64_t pieces = aligned ? (rank + rope) / vector : rank + rope;
    write.count = CheckCount(kOp, std::min(tokens, slots.size(1)) * pieces);
    if (write.count == 0 || layers == 0) return;
    write.pieces = FastDiv(static_cast<uint32_t>(pieces));
    LaunchWriteGrouped(write, {kOp, kv_c->dtype, format, aligned, AsStream(stream), false});
  });
}
