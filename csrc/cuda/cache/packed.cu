// Out of the packed format of latent keys ("fp8_ds_mla"): 512 float8, a scale for each 128 of them,
// and 64 bfloat16 as they are.
#include "cuda/cache/cache.h"
#include "cuda/cache/check.h"
#include "cuda/cache/kernel.cuh"
#include "cuda/common/rows.h"

namespace vk::cuda::cache {
namespace {

constexpr int kRank = 512, kTile = 128, kRope = 64;
constexpr int kEntry = kRank + kRank / kTile * 4 + kRope * 2;  // bytes
constexpr int kElements = 8;                                   // elements of a thread
constexpr int kVectors = (kRank + kRope) / kElements;

__global__ void __launch_bounds__(kThreads) UnpackKernel(const __grid_constant__ Gather gather) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= gather.count) return;
  const int32_t token = static_cast<int32_t>(index / kVectors), vector = index % kVectors;
  int32_t low = 0, high = gather.sequences;  // the last sequence that starts at or before the token
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (gather.starts[middle] <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  int32_t position = token - gather.starts[low];
  if (gather.offsets != nullptr) position += gather.offsets[low];
  if (position < 0 || position / gather.block_size >= gather.pages) return;
  const int64_t block = gather.table[low * gather.table_stride + position / gather.block_size];
  if (block < 0 || block >= gather.blocks) return;
  const uint8_t* entry = static_cast<const uint8_t*>(gather.from) +
                         block * gather.from_block_stride +
                         position % gather.block_size * gather.from_slot_stride;
  BFloat16* to = static_cast<BFloat16*>(gather.to) + token * gather.to_stride + vector * kElements;
  const int column = vector * kElements;
  if (column < kRank) {
    const float scale = reinterpret_cast<const float*>(entry + kRank)[column / kTile];
    ReadVector<E4M3, BFloat16, kElements>(reinterpret_cast<const E4M3*>(entry) + column, to,
                                          &scale);
  } else {
    const auto* rope = reinterpret_cast<const BFloat16*>(entry + kEntry - kRope * 2);
    StoreVec(to, LoadVec<kElements>(rope + column - kRank));
  }
}

const int32_t* Starts(const char* op, const char* name, const vk_tensor* tensor, int64_t least) {
  Arg(op, name, tensor).Dtype({VK_I32}).Dims(1).Contiguous();
  VK_CHECK(tensor->shape[0] >= least, "%s: %s has shape %s, want at least %lld elements", op, name,
           ShapeString(*tensor).c_str(), Print(least));
  return static_cast<const int32_t*>(tensor->data);
}

}  // namespace
}  // namespace vk::cuda::cache

extern "C" vk_status vk_cuda_cp_gather_and_upconvert_fp8_kv_cache(
    const vk_tensor* src_cache, const vk_tensor* dst, const vk_tensor* block_table,
    const vk_tensor* workspace_starts, int64_t batch_size, const vk_tensor* seq_starts,
    void* stream) {
  using namespace vk::cuda::cache;  // NOLINT: everything here is about it
  return vk::Guard([&] {
    const char* op = "cp_gather_and_upconvert_fp8_kv_cache";
    const vk::Arg from(op, "src_cache", src_cache), to(op, "dst", dst);
    const vk::Arg table(op, "block_table", block_table);
    from.Dtype({VK_U8, VK_F8E4M3}).Dims(3).Size(2, kEntry).LastDimContiguous();
    to.Dtype({VK_BF16}).Dims(2).Size(1, kRank + kRope).LastDimContiguous();
    table.Dtype({VK_I32}).Dims(2).LastDimContiguous();
    VK_CHECK(vk::cuda::RowsAligned(*src_cache, 16) && vk::cuda::RowsAligned(*dst, 16),
             "%s: entries of src_cache or rows of dst are not aligned to 16 bytes", op);
    VK_CHECK(batch_size >= 0 && table.size(0) >= batch_size && batch_size <= INT32_MAX,
             "%s: block_table has shape %s, want a row for each of %lld sequences", op,
             vk::ShapeString(*block_table).c_str(), vk::Print(batch_size));
    VK_CHECK(from.size(1) > 0 && from.size(1) <= INT32_MAX,
             "%s: src_cache has blocks of %lld slots", op, vk::Print(from.size(1)));
    Gather gather = {};
    gather.from = src_cache->data;
    gather.to = dst->data;
    gather.table = static_cast<const int32_t*>(block_table->data);
    gather.starts = Starts(op, "workspace_starts", workspace_starts, batch_size);
    if (seq_starts != nullptr) gather.offsets = Starts(op, "seq_starts", seq_starts, batch_size);
    gather.from_block_stride = from.stride(0);
    gather.from_slot_stride = from.stride(1);
    gather.to_stride = to.stride(0);
    gather.table_stride = table.stride(0);
    gather.blocks = from.size(0);
    gather.pages = table.size(1);
    gather.block_size = static_cast<int32_t>(from.size(1));
    gather.sequences = static_cast<int32_t>(batch_size);
    gather.count = CheckCount(op, to.size(0) * kVectors);
    if (gather.count == 0 || batch_size == 0) return;
    const unsigned blocks = vk::cuda::GridX(op, vk::cuda::CeilDiv(gather.count, kThreads));
    UnpackKernel<<<blocks, kThreads, 0, vk::cuda::AsStream(stream)>>>(gather);
    vk::cuda::CheckLaunch(op);
  });
}
