// A ring of stages in shared memory between the producer of asynchronous copies and their
// consumers.
#ifndef VLLM_KERNELS_CUDA_SM90_PIPELINE_CUH_
#define VLLM_KERNELS_CUDA_SM90_PIPELINE_CUH_

#include <cstdint>

#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace vk::cuda::sm90 {

// A place in the ring: which stage, and the parity of the rounds so far. Producer and consumers
// start at the first stage and advance by one a tile, each with a state of its own.
struct PipelineState {
  int stage = 0, phase = 0;

  __device__ __forceinline__ void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// The barriers of up to kStages stages. A stage is full when the bytes that its producer announced
// are there, and empty when every consumer has released it.
template <int kStages>
class Pipeline {
 public:
  struct SharedStorage {
    uint64_t full[kStages], empty[kStages];
  };

  __device__ __forceinline__ explicit Pipeline(const SharedStorage& storage)
      : full_(ptx::cvta_to_shared(&storage)) {}

  // One thread, before fence_mbarrier_init() and a barrier of the block.
  __device__ __forceinline__ void Init(int consumers) const {
    for (int stage = 0; stage < kStages; ++stage) InitStage(stage, consumers);
  }
  // Of a ring of fewer than kStages.
  __device__ __forceinline__ void Init(int consumers, int stages) const {
#pragma unroll 1
    for (int stage = 0; stage < stages; ++stage) InitStage(stage, consumers);
  }
  // Of one stage. Several producers fill it without announcing bytes: each calls ProducerArrive().
  __device__ __forceinline__ void InitStage(int stage, int consumers, int producers = 1) const {
    ptx::mbarrier_init(full(stage), producers);
    ptx::mbarrier_init(empty(stage), consumers);
  }

  // Until the stage is empty; at once in the first round.
  __device__ __forceinline__ void ProducerAcquire(const PipelineState& at) const {
    ptx::mbarrier_wait_parity(empty(at.stage), at.phase ^ 1);
  }
  // One thread announces the bytes of the copies to the stage; these complete on full(stage).
  __device__ __forceinline__ void ProducerCommit(const PipelineState& at, int bytes) const {
    ptx::mbarrier_arrive_expect_tx(full(at.stage), bytes);
  }
  // One of the stage's producers has written its part of the stage.
  __device__ __forceinline__ void ProducerArrive(int stage) const {
    ptx::mbarrier_arrive(full(stage));
  }
  __device__ __forceinline__ uint32_t full(int stage) const { return full_ + 8 * stage; }

  __device__ __forceinline__ void ConsumerWait(const PipelineState& at) const {
    ptx::mbarrier_wait_parity(full(at.stage), at.phase);
  }
  // Whether ConsumerWait() would return at once.
  __device__ __forceinline__ bool ConsumerTest(const PipelineState& at) const {
    return ptx::mbarrier_test_parity(full(at.stage), at.phase);
  }
  // As often a stage as Init() was told.
  __device__ __forceinline__ void ConsumerRelease(int stage) const {
    ptx::mbarrier_arrive(empty(stage));
  }

 private:
  __device__ __forceinline__ uint32_t empty(int stage) const {
    return full_ + 8 * (kStages + stage);
  }

  uint32_t full_;  // address
};

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_PIPELINE_CUH_
