#include <algorithm>
#include <cstring>

#include "cuda/cache/cache.h"
#include "cuda/cache/check.h"

namespace vk::cuda::cache {
namespace {

// Elements of an entry: the dimensions from `first` on, which must be contiguous.
int64_t EntrySize(const char* op, const Arg& arg, int32_t first) {
  int64_t size = 1;
  const vk_tensor& tensor = arg.tensor();
  for (int32_t dim = tensor.ndim - 1; dim >= first; --dim) {
    VK_CHECK(tensor.shape[dim] <= 1 || tensor.stride[dim] == size,
             "%s: %s has entries that are not contiguous", op, arg.name());
    size *= tensor.shape[dim];
  }
  return size;
}

const int32_t* Indices(const char* op, const char* name, const vk_tensor* tensor, int64_t least) {
  const Arg arg(op, name, tensor);
  arg.Dtype({VK_I32}).Dims(1).Contiguous();
  VK_CHECK(arg.size(0) >= least, "%s: %s has shape %s, want at least %lld elements", op, name,
           ShapeString(*tensor).c_str(), Print(least));
  return static_cast<const int32_t*>(tensor->data);
}

// What the gathers share. `tokens`: rows of dst that may be written; the strides of a copy without
// conversion count bytes.
void RunGather(const char* op, const vk_tensor* src_cache, const vk_tensor* dst,
               const vk_tensor* block_table, const vk_tensor* cu_seq_lens, int64_t sequences,
               int64_t tokens, Format format, const vk_tensor* seq_starts, Gather gather,
               void* stream) {
  const Arg from(op, "src_cache", src_cache), to(op, "dst", dst);
  const Arg table(op, "block_table", block_table);
  from.MinDims(2);
  to.MinDims(1);
  const int64_t entry = EntrySize(op, from, 2);
  VK_CHECK(EntrySize(op, to, 1) == entry,
           "%s: dst has shape %s and src_cache %s, want entries of "
           "one size",
           op, ShapeString(*dst).c_str(), ShapeString(*src_cache).c_str());
  VK_CHECK(to.size(0) >= tokens, "%s: dst has shape %s, want at least %lld rows", op,
           ShapeString(*dst).c_str(), Print(tokens));
  table.Dtype({VK_I32}).Dims(2);
  VK_CHECK(table.size(1) <= 1 || table.stride(1) == 1,
           "%s: block_table has stride %lld in its last dimension, want 1", op,
           Print(table.stride(1)));
  VK_CHECK(sequences >= 0 && table.size(0) >= sequences,
           "%s: block_table has shape %s, want a row for each of %lld sequences", op,
           ShapeString(*block_table).c_str(), Print(sequences));
  VK_CHECK(from.size(1) > 0 && from.size(1) <= INT32_MAX, "%s: src_cache has blocks of %lld slots",
           op, Print(from.size(1)));
  const bool bytes = format == Format::kSame;
  const int64_t from_item = DtypeSize(src_cache->dtype), to_item = to.ItemSize();
  const int64_t unit = bytes ? to_item : 1;  // what strides and widths are multiplied by
  gather.from = src_cache->data;
  gather.to = dst->data;
  gather.table = static_cast<const int32_t*>(block_table->data);
  gather.starts = Indices(op, "cu_seq_lens", cu_seq_lens, sequences + 1);
  if (seq_starts != nullptr) gather.offsets = Indices(op, "seq_starts", seq_starts, sequences);
  gather.from_block_stride = from.stride(0) * unit;
  gather.from_slot_stride = from.stride(1) * unit;
  gather.to_stride = to.stride(0) * unit;
  gather.table_stride = table.stride(0);
  gather.blocks = from.size(0);
  gather.pages = table.size(1);
  gather.block_size = static_cast<int32_t>(from.size(1));
  gather.sequences = static_cast<int32_t>(sequences);
  const int64_t vector = 16 / to_item;
  const auto aligned = [&](const Arg& arg, int64_t item, std::initializer_list<int64_t> strides) {
    const int64_t size = vector * item;
    return reinterpret_cast<uintptr_t>(arg.tensor().data) % size == 0 &&
           std::all_of(strides.begin(), strides.end(),
                       [&](int64_t stride) { return stride * item % size == 0; });
  };
  Launch launch = {op, bytes ? int32_t{VK_U8} : dst->dtype, format, false, AsStream(stream)};
  launch.aligned = entry % vector == 0 &&
                   aligned(from, from_item, {from.stride(0), from.stride(1)}) &&
                   aligned(to, to_item, {to.stride(0)});
  const int64_t pieces = launch.aligned ? entry / vector : entry * unit;
  gather.pieces = FastDiv(static_cast<uint32_t>(std::max<int64_t>(pieces, 1)));
  gather.count = CheckCount(op, tokens * pieces);
  LaunchGather(gather, launch);
}

void GatherTokens(const vk_tensor* src_cache, const vk_tensor* dst, const vk_tensor* block_table,
                  const vk_tensor* cu_seq_lens, const vk_tensor* token_to_seq, int64_t num_tokens,
                  const char* kv_cache_dtype, const vk_tensor* scale, const vk_tensor* seq_starts,
                  void* stream) {
  const char* op = "gather_and_maybe_dequant_cache";
  const Format format = FormatOf(op, kv_cache_dtype);
  const Arg from(op, "src_cache", src_cache), to(op, "dst", dst);
  to.Dtype({VK_F32, VK_BF16, VK_F16});
  CheckFormat(from, format, to);
  VK_CHECK(num_tokens >= 0, "%s: num_tokens is %lld, want at least 0", op, Print(num_tokens));
  Gather gather = {};
  int64_t scale_stride;
  gather.scale = CheckScale(op, "scale", scale, format, 1, &scale_stride);
  gather.token_to_seq = Indices(op, "token_to_seq", token_to_seq, num_tokens);
  const Arg starts(op, "cu_seq_lens", cu_seq_lens);
  starts.Dims(1);
  RunGather(op, src_cache, dst, block_table, cu_seq_lens, std::max<int64_t>(starts.size(0) - 1, 0),
            num_tokens, format, seq_starts, gather, stream);
}

void GatherSequences(const vk_tensor* src_cache, const vk_tensor* dst, const vk_tensor* block_table,
                     const vk_tensor* cu_seq_lens, int64_t batch_size, const vk_tensor* seq_starts,
                     void* stream) {
  const char* op = "cp_gather_cache";
  const Arg from(op, "src_cache", src_cache), to(op, "dst", dst);
  to.SameDtype(from).MinDims(1);
  RunGather(op, src_cache, dst, block_table, cu_seq_lens, batch_size, to.size(0), Format::kSame,
            seq_starts, {}, stream);
}

void Convert(const vk_tensor* dst_cache, const vk_tensor* src_cache, double scale,
             const char* kv_cache_dtype, void* stream) {
  const char* op = "convert_fp8";
  Format format = FormatOf(op, kv_cache_dtype);
  if (format == Format::kSame) format = Format::kE4M3;
  const Arg to(op, "dst_cache", dst_cache), from(op, "src_cache", src_cache);
  from.Contiguous();
  to.SameShape(from).Contiguous();
  const bool to_cache = DtypeSize(dst_cache->dtype) == 1;
  const Arg &cache = to_cache ? to : from, &values = to_cache ? from : to;
  values.Dtype({VK_F32, VK_BF16, VK_F16});
  CheckFormat(cache, format, values);
  const int64_t count = NumElements(*src_cache);
  const int64_t vector = 16 / DtypeSize(values.tensor().dtype);
  const auto aligned = [](const Arg& arg, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(arg.tensor().data) % bytes == 0;
  };
  const Launch launch = {op, values.tensor().dtype, format,
                         count % vector == 0 && aligned(values, 16) && aligned(cache, vector),
                         AsStream(stream)};
  LaunchConvert(src_cache->data, dst_cache->data, count, static_cast<float>(scale), to_cache,
                launch);
}

void SwapBlocks(const vk_tensor* src, const vk_tensor* dst, int64_t block_bytes,
                const vk_tensor* block_mapping, void* stream) {
  const char* op = "swap_blocks";
  const Arg source(op, "src", src), target(op, "dst", dst);
  const Arg mapping(op, "block_mapping", block_mapping);
  mapping.Dtype({VK_I64}).Dims(2).Size(1, 2);
  VK_CHECK(block_bytes > 0, "%s: block_size_in_bytes is %lld, want more than 0", op,
           Print(block_bytes));
  const int64_t* pairs = static_cast<const int64_t*>(block_mapping->data);
  const int64_t count = mapping.size(0), row = mapping.stride(0), column = mapping.stride(1);
  const int64_t limits[2] = {NumElements(*src) * source.ItemSize() / block_bytes,
                             NumElements(*dst) * target.ItemSize() / block_bytes};
  // Before anything is copied: the op leaves dst as it was when it fails.
  for (int64_t i = 0; i < count; ++i) {
    for (int side = 0; side < 2; ++side) {
      const int64_t block = pairs[i * row + side * column];
      VK_CHECK(block >= 0 && block < limits[side],
               "%s: block_mapping has %lld at [%lld, %d], want 0 to %lld", op, Print(block),
               Print(i), side, Print(limits[side] - 1));
    }
  }
  for (int64_t i = 0; i < count;) {
    const int64_t from = pairs[i * row], to = pairs[i * row + column];
    // Neighbouring blocks that stay neighbours are one copy.
    int64_t run = 1;
    while (i + run < count && pairs[(i + run) * row] == from + run &&
           pairs[(i + run) * row + column] == to + run) {
      ++run;
    }
    CheckCuda(op, "copying blocks",
              cudaMemcpyAsync(static_cast<char*>(dst->data) + to * block_bytes,
                              static_cast<const char*>(src->data) + from * block_bytes,
                              static_cast<size_t>(run * block_bytes), cudaMemcpyDefault,
                              AsStream(stream)));
    i += run;
  }
}

void SwapBatch(const vk_tensor* src_ptrs, const vk_tensor* dst_ptrs, const vk_tensor* sizes,
               void* stream) {
  const char* op = "swap_blocks_batch";
  const Arg from(op, "src_ptrs", src_ptrs), to(op, "dst_ptrs", dst_ptrs), size(op, "sizes", sizes);
  from.Dtype({VK_I64}).Dims(1).Contiguous();
  to.Dtype({VK_I64}).SameShape(from).Contiguous();
  size.Dtype({VK_I64}).SameShape(from).Contiguous();
  const auto at = [](const vk_tensor* tensor, int64_t i) {
    return static_cast<const int64_t*>(tensor->data)[i];
  };
  for (int64_t i = 0; i < from.size(0); ++i) {
    VK_CHECK(at(sizes, i) >= 0, "%s: sizes has %lld at index %lld, want at least 0", op,
             Print(at(sizes, i)), Print(i));
  }
  for (int64_t i = 0; i < from.size(0); ++i) {
    CheckCuda(
        op, "copying blocks",
        cudaMemcpyAsync(reinterpret_cast<void*>(at(dst_ptrs, i)),
                        reinterpret_cast<const void*>(at(src_ptrs, i)),
                        static_cast<size_t>(at(sizes, i)), cudaMemcpyDefault, AsStream(stream)));
  }
}

}  // namespace
}  // namespace vk::cuda::cache

extern "C" {

vk_status vk_cuda_gather_and_maybe_dequant_cache(const vk_tensor* src_cache, const vk_tensor* dst,
                                                 const vk_tensor* block_table,
                                                 const vk_tensor* cu_seq_lens,
                                                 const vk_tensor* token_to_seq, int64_t num_tokens,
                                                 const char* kv_cache_dtype, const vk_tensor* scale,
                                                 const vk_tensor* seq_starts, void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::GatherTokens(src_cache, dst, block_table, cu_seq_lens, token_to_seq,
                                  num_tokens, kv_cache_dtype, scale, seq_starts, stream);
  });
}

vk_status vk_cuda_cp_gather_cache(const vk_tensor* src_cache, const vk_tensor* dst,
                                  const vk_tensor* block_table, const vk_tensor* cu_seq_lens,
                                  int64_t batch_size, const vk_tensor* seq_starts, void* stream) {
  return vk::Guard([&] {
    vk::cuda::cache::GatherSequences(src_cache, dst, block_table, cu_seq_lens, batch_size,
                                     seq_starts, stream);
  });
}

vk_status vk_cuda_convert_fp8(const vk_tensor* dst_cache, const vk_tensor* src_cache, double scale,
                              const char* kv_cache_dtype, void* stream) {
  return vk::Guard(
      [&] { vk::cuda::cache::Convert(dst_cache, src_cache, scale, kv_cache_dtype, stream); });
}

vk_status vk_cuda_swap_blocks(const vk_tensor* src, const vk_tensor* dst,
                              int64_t block_size_in_bytes, const vk_tensor* block_mapping,
                              void* stream) {
  return vk::Guard(
      [&] { vk::cuda::cache::SwapBlocks(src, dst, block_size_in_bytes, block_mapping, stream); });
}

vk_status vk_cuda_swap_blocks_batch(const vk_tensor* src_ptrs, const vk_tensor* dst_ptrs,
                                    const vk_tensor* sizes, void* stream) {
  return vk::Guard([&] { vk::cuda::cache::SwapBatch(src_ptrs, dst_ptrs, sizes, stream); });
}

}  // extern "C"
