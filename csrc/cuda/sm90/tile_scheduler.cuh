// Work of persistent blocks whose tiles differ in length.
#ifndef VLLM_KERNELS_CUDA_SM90_TILE_SCHEDULER_CUH_
#define VLLM_KERNELS_CUDA_SM90_TILE_SCHEDULER_CUH_

#include <cstdint>

#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/mbarrier.cuh"

namespace vk::cuda::sm90 {

// Blocks take tiles as they become free: one warp of a block draws a number and hands it to the
// others through shared memory. Every warp has an object of its own, for all of its rounds.
class DynamicTileScheduler {
 public:
  struct SharedStorage {
    uint64_t full, empty;
    int32_t index;
  };

  __device__ __forceinline__ explicit DynamicTileScheduler(SharedStorage& storage)
      : storage_(&storage), full_(ptx::cvta_to_shared(&storage)) {}

  // One thread, before fence_mbarrier_init() and a barrier of the block. `takers`: warps that call
  // Take().
  __device__ __forceinline__ void Init(int takers) const {
    ptx::mbarrier_init(full_, 1);
    ptx::mbarrier_init(full_ + 8, takers);
  }

  // The number of the next tile, for a whole warp, which draws it. `counter`, in global memory and
  // 0 at launch, counts the tiles beyond the first one of each block.
  __device__ __forceinline__ int32_t Draw(int32_t* counter, int lane) {
    int32_t index = static_cast<int32_t>(blockIdx.x);
    if (round_ > 0) {
      if (lane == 0) index = static_cast<int32_t>(gridDim.x) + atomicAdd(counter, 1);
      index = __shfl_sync(0xffffffffu, index, 0);
    }
    ptx::mbarrier_wait_parity(full_ + 8, (round_++ & 1) ^ 1);
    if (lane == 0) {
      *static_cast<volatile int32_t*>(&storage_->index) = index;
      ptx::mbarrier_arrive(full_);
    }
    __syncwarp();
    return index;
  }

  // The same number, for a whole warp of those that do not draw.
  __device__ __forceinline__ int32_t Take(int lane) {
    ptx::mbarrier_wait_parity(full_, round_++ & 1);
    const int32_t index = *static_cast<volatile int32_t*>(&storage_->index);
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(full_ + 8);
    return index;
  }

 private:
  SharedStorage* storage_;
  uint32_t full_;  // address
  int32_t round_ = 0;
};

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_TILE_SCHEDULER_CUH_
