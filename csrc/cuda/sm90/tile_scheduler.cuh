// Work of persistent blocks whose tiles differ in length.
#ifndef VLLM_KERNELS_CUDA_SM90_TILE_SCHEDULER_CUH_
#define VLLM_KERNELS_CUDA_SM90_TILE_SCHEDULER_CUH_

#include <cstdint>

#include "cuda/sm90/pipeline.cuh"

namespace vk::cuda::sm90 {

// Blocks take tiles as they become free: one warp of a block draws a number, finds out what it
// stands for, and hands that to the others through shared memory. Every warp has an object of its
// own, for all of its rounds.
template <class Tile, int kSlots>
class DynamicTileScheduler {
 public:
  struct SharedStorage {
    Tile tiles[kSlots];
    typename Pipeline<kSlots>::SharedStorage pipeline;
  };

  __device__ __forceinline__ explicit DynamicTileScheduler(SharedStorage& storage)
      : tiles_(storage.tiles), pipeline_(storage.pipeline) {}

  // One thread, before fence_mbarrier_init() and a barrier of the block. `takers`: warps that call
  // Take().
  __device__ __forceinline__ void Init(int takers) const { pipeline_.Init(takers); }

  // The number of the next tile, for the whole warp, which draws it. `counter`, in global memory
  // and 0 at launch, counts the tiles beyond the first one of each block.
  __device__ __forceinline__ int32_t Draw(int32_t* counter, int lane) {
    if (first_) {
      first_ = false;
      return static_cast<int32_t>(blockIdx.x);
    }
    int32_t index = 0;
    if (lane == 0) index = static_cast<int32_t>(gridDim.x) + atomicAdd(counter, 1);
    return __shfl_sync(0xffffffffu, index, 0);
  }

  // Hands a tile to the others; by the warp that drew it.
  __device__ __forceinline__ void Publish(const Tile& tile, int lane) {
    pipeline_.ProducerAcquire(at_);
    if (lane == 0) {
      tiles_[at_.stage] = tile;
      pipeline_.ProducerArrive(at_.stage);
    }
    __syncwarp();
    at_.Advance(kSlots);
  }

  // The next tile, for a whole warp of those that do not draw; it stays until Release(), which is
  // called once for each, and may be so after the next one is taken.
  __device__ __forceinline__ const Tile& Take() {
    pipeline_.ConsumerWait(at_);
    const Tile& tile = tiles_[at_.stage];
    at_.Advance(kSlots);
    return tile;
  }
  __device__ __forceinline__ void Release(const Tile& tile, int lane) const {
    __syncwarp();
    if (lane == 0) pipeline_.ConsumerRelease(static_cast<int>(&tile - tiles_));
  }

 private:
  Tile* tiles_;
  Pipeline<kSlots> pipeline_;
  PipelineState at_;
  bool first_ = true;
};

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_TILE_SCHEDULER_CUH_
