// What a consumer warpgroup computes: every other tile of keys, times all heads of some queries.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_CONSUMER_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_CONSUMER_CUH_

#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/mqa_logits/storage.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::mqa_logits {

// One step of a sum over the four lanes of a row, lanes `mask` apart: a lane keeps half of the
// values, or all if there is but one.
template <int kMask, int kCount>
__device__ __forceinline__ auto& Fold(float (&values)[kCount], int lane) {
  constexpr int kKept = kCount > 1 ? kCount / 2 : 1;
  const bool upper = (lane & kMask) != 0;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    float kept = values[i], sent = values[i];
    if constexpr (kCount > 1) {
      kept = upper ? values[i + kKept] : values[i];
      sent = upper ? values[i] : values[i + kKept];
    }
    values[i] = kept + __shfl_xor_sync(0xffffffffu, sent, kMask);
  }
  return reinterpret_cast<float (&)[kKept]>(values);
}

template <class Works, int kQueries, int kHeads>
class Consumer {
  using Problem = typename Works::Problem;
  using Storage = SharedStorage<kQueries, kHeads>;
  static constexpr int kSums =
      Storage::kColumns / 2;  // of a thread: two keys, a quarter of columns
  // After both steps of Fold() lane t of four has the values t * kOwned and on, of query * 2 +
  // half.
  static constexpr int kValues = 2 * kQueries;
  static constexpr int kOwned = kValues >= 4 ? kValues / 4 : 1;
  static constexpr int kOwnedQueries = kOwned > 1 ? kOwned / 2 : 1;

 public:
  __device__ __forceinline__ Consumer(const Problem& p, const Storage& storage,
                                      const QueryPipeline& queries, const KeyPipeline& keys,
                                      int group)
      : p_(p),
        storage_(storage),
        queries_(queries),
        keys_(keys),
        group_(group),
        lane_(static_cast<int>(threadIdx.x) % 32),
        row_(static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane_ / 4) {}

  __device__ __forceinline__ void Run() {
    sm90::PipelineState query_at;
    for (;; query_at.Advance(kQueryStages)) {
      queries_.ConsumerWait(query_at);
      const Work work = storage_.works[query_at.stage];
      if (work.rows == 0) return;
      Prepare(work, query_at.stage);
      const uint32_t queries = ptx::cvta_to_shared(storage_.queries[query_at.stage]);
      for (int32_t tile = work.first_tile; tile < work.last_tile; tile += work.step) {
        if (turn_ == group_) Multiply(queries, tile);
        turn_ ^= 1;
        at_.Advance(kKeyStages);
      }
      // No product is under way.
      queries_.ConsumerRelease(query_at.stage);
    }
  }

 private:
  // The value that is the lane's first one, of query * 2 + half; two lanes have it if there are
  // but two values.
  __device__ __forceinline__ int FirstOwned() const {
    return kValues >= 4 ? lane_ % 4 * kOwned : lane_ % 4 / 2;
  }

  __device__ __forceinline__ void Prepare(const Work& work, int stage) {
    const float* weights = storage_.weights[stage] + lane_ % 4 * 2;
#pragma unroll
    for (int i = 0; i < Storage::kColumns / 8; ++i) {
      const float2 two = *reinterpret_cast<const float2*>(weights + 8 * i);
      weights_[2 * i] = two.x, weights_[2 * i + 1] = two.y;
    }
#pragma unroll
    for (int i = 0; i < kOwnedQueries; ++i) {
      const int query = FirstOwned() / 2 + i;
      const Limits limits = storage_.limits[stage][query];
      begin_[i] = limits.begin;
      end_[i] = limits.end;
      out_[i] = (int64_t{work.row} + query) * p_.logits_stride - limits.origin;
    }
  }

  __device__ __forceinline__ void Multiply(uint32_t queries, int32_t tile) {
    const int32_t key = tile * kKeys + row_;
    float scales[2];
    // From global memory: before the products, which take as long.
    if constexpr (!Works::kScalesInStage) LoadScales(scales, key);
    keys_.ConsumerWait(at_);
    if constexpr (Works::kScalesInStage) {
      scales[0] = storage_.scales[at_.stage][row_];
      scales[1] = storage_.scales[at_.stage][row_ + 8];
    }
    const uint32_t keys = ptx::cvta_to_shared(storage_.keys[at_.stage]);
    float sums[kSums];
    ptx::warpgroup_fence_operand(sums);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDepth; k += 32) {
      ptx::wgmma_ss<E4M3>(sums, sm90::MakeSmemDesc<ptx::Major::kK>(keys + k),
                          sm90::MakeSmemDesc<ptx::Major::kK>(queries + k), k > 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    ptx::warpgroup_fence_operand(sums);
    __syncwarp();  // the scales are read
    if (lane_ == 0) keys_.ConsumerRelease(at_.stage);
    Store(sums, scales, key);
  }

  __device__ __forceinline__ void LoadScales(float (&scales)[2], int32_t key) const {
    scales[0] = Works::Scale(p_, key);
    scales[1] = Works::Scale(p_, key + 8);
  }

  __device__ __forceinline__ void Store(const float (&sums)[kSums], const float (&scales)[2],
                                        int32_t key) const {
    float values[kValues];
#pragma unroll
    for (int value = 0; value < kValues; ++value) {
      const int first = value / 2 * (kHeads / 2), half = value % 2;
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kHeads / 4; ++i) {
        const float sum = sums[first + i / 2 * 4 + half * 2 + i % 2];
        total = fmaf(fmaxf(sum, 0.0f), weights_[first / 2 + i], total);
      }
      values[value] = total * scales[half];
    }
    auto& owned = Fold<1>(Fold<2>(values, lane_), lane_);
#pragma unroll
    for (int i = 0; i < kOwned; ++i) {
      const int query = i / 2, half = (FirstOwned() + i) % 2;
      const int32_t at = key + 8 * half;
      if (at >= begin_[query] && at < end_[query]) p_.logits[out_[query] + at] = owned[i];
    }
  }

  const Problem& p_;
  const Storage& storage_;
  const QueryPipeline& queries_;
  const KeyPipeline& keys_;
  int group_, lane_, row_;  // the thread's keys are row_ and row_ + 8 of a tile
  sm90::PipelineState at_;
  int turn_ = 0;
  float weights_[Storage::kColumns / 4];
  int32_t begin_[kOwnedQueries], end_[kOwnedQueries];
  int64_t out_[kOwnedQueries];  // of key 0
};

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_CONSUMER_CUH_
