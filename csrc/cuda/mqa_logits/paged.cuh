// Keys in the pages of a cache: which works a block has, and how their keys come. Objects are of a
// warp.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_PAGED_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_PAGED_CUH_

#include <cuda.h>

#include <cstdint>

#include "cuda/mqa_logits/storage.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mqa_logits {

// The tiles of all batch entries, one after the other, are divided among parts of equal cost
// (cuts.cuh). Blocks of a part take turns with its tiles; blockIdx.y is a tile of queries.
template <int kQueries>
class PagedWorks {
 public:
  using Problem = Paged;
  static constexpr bool kScalesInStage = true;
  static constexpr int kStageBytes = kKeys * (kDepth + static_cast<int>(sizeof(float)));

  __device__ __forceinline__ PagedWorks(const Problem& p, int lane)
      : lane_(lane), split_(static_cast<int32_t>(blockIdx.x) % p.splits) {
    const int32_t part = static_cast<int32_t>(blockIdx.x) / p.splits;
    begin_ = p.schedule[part];
    end_ = p.schedule[part + 1];
    next_ = max(0, begin_.entry);
  }

  __device__ __forceinline__ bool Next(const Problem& p, Work& work) {
    while (next_ < p.batch && next_ <= end_.entry) {
      const int32_t entry = next_++;
      const int32_t query = static_cast<int32_t>(blockIdx.y) * kQueries;
      work.row = entry * p.queries + query;
      work.rows = min(kQueries, p.queries - query);
      limits_ = {};
      if (lane_ < work.rows) {
        limits_.end =
            __ldg(p.context_lens + entry * p.entry_stride + (query + lane_) * p.query_stride);
        limits_.end = min(min(limits_.end, p.columns), p.table_width * p.slots);
      }
      int32_t keys = limits_.end;
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        keys = max(keys, __shfl_xor_sync(0xffffffffu, keys, distance));
      }
      work.first_tile = (entry == begin_.entry ? max(0, begin_.unit) : 0) + split_;
      work.last_tile = (keys + kKeys - 1) / kKeys;
      if (entry == end_.entry) work.last_tile = min(work.last_tile, end_.unit);
      work.step = p.splits;
      if (work.first_tile >= work.last_tile) continue;
      table_ = p.block_table + entry * p.table_stride;
      first_page_ = -32;
      return true;
    }
    return false;
  }

  __device__ __forceinline__ Limits limits() const { return limits_; }

  // All lanes; the stage is empty.
  __device__ __forceinline__ void Load(const Problem& p, const CUtensorMap& map, int32_t tile,
                                       uint32_t keys, uint32_t scales, uint32_t barrier) {
    const int32_t boxes = kKeys / p.slots;
    for (int32_t box = 0; box < boxes; ++box) {
      const int32_t page = PageOf(p, tile * boxes + box);
      if (lane_ != 0) continue;
      const bool there = page >= 0 && page < p.pages;
      // Of a page outside of the tensor come zeros.
      ptx::tma_load_3d(keys + box * p.slots * kDepth, &map, barrier, 0, 0, there ? page : p.pages);
      const char* from = p.cache + (there ? page : 0) * p.page_bytes + p.slots * kDepth;
      const int bytes = p.slots * static_cast<int>(sizeof(float));
      ptx::bulk_copy_g2s(scales + box * bytes, from, bytes, barrier);
    }
  }

 private:
  // Lanes hold 32 numbers of pages, so that few loads are waited for.
  __device__ __forceinline__ int32_t PageOf(const Problem& p, int32_t index) {
    if (index >= first_page_ + 32) {
      first_page_ = index;
      held_page_ = __ldg(table_ + min(index + lane_, p.table_width - 1));
    }
    return __shfl_sync(0xffffffffu, held_page_, index - first_page_);
  }

  int lane_;
  int32_t split_, next_;
  Cut begin_, end_;
  Limits limits_;
  const int32_t* table_;
  int32_t first_page_, held_page_;
};

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_PAGED_CUH_
