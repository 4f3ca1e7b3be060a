// Keys in one tensor: which works a block has, and how their keys come. Objects are of a warp.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_CONTIGUOUS_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_CONTIGUOUS_CUH_

#include <cuda.h>

#include <climits>
#include <cstdint>

#include "cuda/mqa_logits/storage.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mqa_logits {

// A work is a chunk of the keys for kQueries queries. Blocks take turns with them; those that run
// at once have the same chunk, which they share in the L2.
template <int kQueries>
class ContiguousWorks {
 public:
  using Problem = Contiguous;
  static constexpr bool kScalesInStage = false;
  static constexpr int kStageBytes = kKeys * kDepth;

  __device__ __forceinline__ ContiguousWorks(const Problem& p, int lane)
      : lane_(lane),
        index_(blockIdx.x),
        tiles_((p.rows + kQueries - 1) / kQueries),
        works_(int64_t{tiles_} * (((p.keys + kKeys - 1) / kKeys + p.chunk - 1) / p.chunk)) {}

  __device__ __forceinline__ bool Next(const Problem& p, Work& work) {
    for (; index_ < works_; index_ += gridDim.x) {
      const int32_t chunk = static_cast<int32_t>(index_ / tiles_);
      work.row = static_cast<int32_t>(index_ - int64_t{chunk} * tiles_) * kQueries;
      work.rows = min(kQueries, p.rows - work.row);
      limits_ = LimitsOf(p, work);
      // The keys that one of the queries sees.
      const bool sees = limits_.begin < limits_.end;
      int32_t first = sees ? limits_.begin : INT_MAX, last = sees ? limits_.end : 0;
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        first = min(first, __shfl_xor_sync(0xffffffffu, first, distance));
        last = max(last, __shfl_xor_sync(0xffffffffu, last, distance));
      }
      work.first_tile = max(chunk * p.chunk, first / kKeys);
      work.last_tile = min((chunk + 1) * p.chunk, (last + kKeys - 1) / kKeys);
      work.step = 1;
      if (work.first_tile >= work.last_tile) continue;
      index_ += gridDim.x;
      return true;
    }
    return false;
  }

  // Of query `lane` of the work.
  __device__ __forceinline__ Limits limits() const { return limits_; }

  // One lane; the stage is empty.
  __device__ __forceinline__ void Load(const Problem&, const CUtensorMap& map, int32_t tile,
                                       uint32_t keys, uint32_t, uint32_t barrier) const {
    if (lane_ == 0) ptx::tma_load_2d(keys, &map, barrier, 0, tile * kKeys);
  }

  __device__ __forceinline__ static float Scale(const Problem& p, int32_t key) {
    return key < p.keys ? __ldg(p.key_scales + key) : 0.0f;
  }

 private:
  __device__ __forceinline__ Limits LimitsOf(const Problem& p, const Work& work) const {
    if (lane_ >= work.rows) return {};
    Limits limits;
    limits.begin = max(0, __ldg(p.starts + work.row + lane_));
    limits.origin = p.from_start ? limits.begin : 0;
    limits.end = min(p.keys, __ldg(p.ends + work.row + lane_));
    if (limits.end - limits.origin > p.columns) limits.end = limits.origin + p.columns;
    return limits;
  }

  int lane_;
  int64_t index_;
  int32_t tiles_;  // of queries
  int64_t works_;
  Limits limits_;
};

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_CONTIGUOUS_CUH_
