// The warp that finds a block's works and has their queries and keys copied.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_PRODUCER_CUH_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_PRODUCER_CUH_

#include <cuda.h>

#include "cuda/mqa_logits/storage.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/tma.cuh"

namespace vk::cuda::mqa_logits {

template <class Works, int kQueries, int kHeads>
struct Producer {
  using Storage = SharedStorage<kQueries, kHeads>;

  const typename Works::Problem& p;
  Storage& storage;
  const QueryPipeline& queries;
  const KeyPipeline& keys;
  const CUtensorMap &query_map, &key_map;

  __device__ __forceinline__ void Run() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    sm90::PipelineState query_at, key_at;
    Works works(p, lane);
    Work work;
    while (works.Next(p, work)) {
      queries.ProducerAcquire(query_at);
      Announce(work, works.limits(), query_at, lane);
      query_at.Advance(kQueryStages);
      for (int32_t tile = work.first_tile; tile < work.last_tile; tile += work.step) {
        keys.ProducerAcquire(key_at);
        if (lane == 0) keys.ProducerCommit(key_at, Works::kStageBytes);
        works.Load(p, key_map, tile, ptx::cvta_to_shared(storage.keys[key_at.stage]),
                   ptx::cvta_to_shared(storage.scales[key_at.stage]), keys.full(key_at.stage));
        key_at.Advance(kKeyStages);
      }
    }
    queries.ProducerAcquire(query_at);
    if (lane == 0) {
      storage.works[query_at.stage].rows = 0;
      queries.ProducerArrive(query_at.stage);
    }
  }

 private:
  // The work, for the consumers, and its queries.
  __device__ __forceinline__ void Announce(const Work& work, const Limits& limits,
                                           const sm90::PipelineState& at, int lane) const {
    if (lane < kQueries) storage.limits[at.stage][lane] = limits;
    __syncwarp();
    if (lane != 0) return;
    storage.works[at.stage] = work;
    constexpr int kRowBytes = kHeads * static_cast<int>(sizeof(float));
    queries.ProducerCommit(at, Storage::kColumns * kDepth + work.rows * kRowBytes);
    const uint32_t full = queries.full(at.stage);
    ptx::tma_load_3d(ptx::cvta_to_shared(storage.queries[at.stage]), &query_map, full, 0, 0,
                     work.row);
    const uint32_t to = ptx::cvta_to_shared(storage.weights[at.stage]);
    for (int32_t i = 0; i < work.rows; ++i) {
      ptx::bulk_copy_g2s(to + i * kRowBytes, p.weights + (int64_t{work.row} + i) * p.weights_stride,
                         kRowBytes, full);
    }
  }
};

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_PRODUCER_CUH_
