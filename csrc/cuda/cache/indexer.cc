#include "cuda/cache/indexer.h"

#include <cstring>

#include "cuda/cache/cache.h"
#include "cuda/cache/check.h"
#include "cuda/common/rows.h"

namespace vk::cuda::cache {
namespace {

// [blocks, block_size, head + scales]: the bytes of a block, entries contiguous, words aligned.
void CheckCache(const char* op, const Arg& cache, int64_t head, int64_t scale_bytes) {
  cache.Dtype({VK_U8, VK_F8E4M3, VK_I8}).Dims(3);
  const int64_t entry = cache.size(2);
  VK_CHECK(entry >= head + scale_bytes && (cache.stride(1) == entry || cache.size(1) <= 1) &&
               (cache.stride(2) == 1 || entry <= 1),
           "%s: kv_cache has shape %s, want contiguous blocks of slots of at least %lld bytes", op,
           ShapeString(cache.tensor()).c_str(), Print(head + scale_bytes));
  VK_CHECK(reinterpret_cast<uintptr_t>(cache.tensor().data) % 4 == 0 && cache.stride(0) % 4 == 0,
           "%s: kv_cache's blocks do not start at multiples of 4 bytes", op);
  VK_CHECK(cache.size(1) > 0 && cache.size(1) <= INT32_MAX, "%s: kv_cache has blocks of %lld slots",
           op, Print(cache.size(1)));
}

void WriteKeys(const vk_tensor* k, const vk_tensor* kv_cache, const vk_tensor* slot_mapping,
               int64_t quant_block_size, const char* scale_format, void* stream) {
  const char* op = "indexer_k_quant_and_cache";
  const Arg keys(op, "k", k), cache(op, "kv_cache", kv_cache);
  const Arg slots(op, "slot_mapping", slot_mapping);
  keys.Dtype({VK_F32, VK_BF16, VK_F16}).Dims(2).LastDimContiguous();
  VK_CHECK(quant_block_size == 32 || quant_block_size == 64 || quant_block_size == 128,
           "%s: quant_block_size is %lld, want 32, 64 or 128", op, Print(quant_block_size));
  const int64_t head = keys.size(1);
  VK_CHECK(head > 0 && head % quant_block_size == 0 && head <= INT32_MAX,
           "%s: k has shape %s, want a multiple of %lld columns", op, ShapeString(*k).c_str(),
           Print(quant_block_size));
  CheckCache(op, cache, head, head / quant_block_size * 4);
  slots.Dtype({VK_I64}).Dims(1).Contiguous();
  VK_CHECK(slots.size(0) <= keys.size(0) && keys.size(0) <= INT32_MAX,
           "%s: slot_mapping has shape %s, want at most %lld elements", op,
           ShapeString(*slot_mapping).c_str(), Print(keys.size(0)));
  IndexerWrite write = {};
  write.keys = k->data;
  write.cache = static_cast<uint8_t*>(kv_cache->data);
  write.slots = static_cast<const int64_t*>(slot_mapping->data);
  write.key_stride = keys.stride(0);
  write.block_stride = cache.stride(0);
  write.slot_limit = cache.size(0) * cache.size(1);
  write.tokens = static_cast<int32_t>(slots.size(0));
  write.head = static_cast<int32_t>(head);
  write.group = static_cast<int32_t>(quant_block_size);
  write.block_size = static_cast<int32_t>(cache.size(1));
  write.powers = std::strcmp(scale_format, "ue8m0") == 0;
  LaunchIndexerWrite(write, {op, k->dtype, Format::kE4M3, false, AsStream(stream)});
}

void GatherKeys(const vk_tensor* kv_cache, const vk_tensor* dst_k, const vk_tensor* dst_scale,
                const vk_tensor* block_table, const vk_tensor* cu_seq_lens, void* stream) {
  const char* op = "cp_gather_indexer_k_quant_cache";
  const Arg cache(op, "kv_cache", kv_cache), keys(op, "dst_k", dst_k);
  const Arg scales(op, "dst_scale", dst_scale), table(op, "block_table", block_table);
  const Arg starts(op, "cu_seq_lens", cu_seq_lens);
  keys.Dtype({VK_U8, VK_F8E4M3, VK_I8}).Dims(2).LastDimContiguous();
  scales.Dims(2).Size(0, keys.size(0)).LastDimContiguous();
  const int64_t item = scales.ItemSize(), head = keys.size(1);
  const int64_t scale_bytes = scales.size(1) * item;
  VK_CHECK(head % 4 == 0 && scale_bytes % 4 == 0 && head <= INT32_MAX && scale_bytes <= head,
           "%s: dst_k has shape %s and dst_scale rows of %lld bytes, want multiples of 4", op,
           ShapeString(*dst_k).c_str(), Print(scale_bytes));
  VK_CHECK(RowsAligned(*dst_k, 4) && RowsAligned(*dst_scale, 4),
           "%s: rows of dst_k or dst_scale do not start at multiples of 4 bytes", op);
  VK_CHECK(keys.size(0) <= INT32_MAX, "%s: dst_k has %lld rows, want fewer than 2^31", op,
           Print(keys.size(0)));
  CheckCache(op, cache, head, scale_bytes);
  table.Dtype({VK_I32}).Dims(2).LastDimContiguous();
  starts.Dtype({VK_I32}).Dims(1).Size(0, table.size(0) + 1).Contiguous();
  IndexerGather gather = {};
  gather.cache = static_cast<const uint8_t*>(kv_cache->data);
  gather.keys = static_cast<uint8_t*>(dst_k->data);
  gather.scales = static_cast<uint8_t*>(dst_scale->data);
  gather.table = static_cast<const int32_t*>(block_table->data);
  gather.starts = static_cast<const int32_t*>(cu_seq_lens->data);
  gather.key_stride = keys.stride(0);
  gather.scale_stride = scales.stride(0) * item;
  gather.block_stride = cache.stride(0);
  gather.table_stride = table.stride(0);
  gather.blocks = cache.size(0);
  gather.pages = table.size(1);
  gather.tokens = static_cast<int32_t>(keys.size(0));
  gather.head = static_cast<int32_t>(head);
  gather.scale_bytes = static_cast<int32_t>(scale_bytes);
  gather.block_size = static_cast<int32_t>(cache.size(1));
  gather.sequences = static_cast<int32_t>(table.size(0));
  LaunchIndexerGather(gather, {op, VK_U8, Format::kSame, false, AsStream(stream)});
}

}  // namespace
}  // namespace vk::cuda::cache

extern "C" {

vk_status vk_cuda_indexer_k_quant_and_cache(const vk_tensor* k, const vk_tensor* kv_cache,
                                            const vk_tensor* slot_mapping, int64_t quant_block_size,
                                            const char* scale_format, void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::WriteKeys(k, kv_cache, slot_mapping, quant_block_size, scale_format, stream);
  });
}

vk_status vk_cuda_cp_gather_indexer_k_quant_cache(const vk_tensor* kv_cache, const vk_tensor* dst_k,
                                                  const vk_tensor* dst_scale,
                                                  const vk_tensor* block_table,
                                                  const vk_tensor* cu_seq_lens, void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::GatherKeys(kv_cache, dst_k, dst_scale, block_table, cu_seq_lens, stream);
  });
}

}  // extern "C"
