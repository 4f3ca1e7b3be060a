// Prefix sums over a block.
#ifndef VLLM_KERNELS_CUDA_COMMON_SCAN_CUH_
#define VLLM_KERNELS_CUDA_COMMON_SCAN_CUH_

namespace vk::cuda {

// Over the lanes up to this one.
__device__ __forceinline__ int InclusiveWarpSum(int value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

// Sum over the threads before this one; all threads of the block call. kWarps: 32, or 0 where a
// launch decides. `scratch`: an int for each warp.
//
// Not cub::BlockScan: it wants the number of threads at compile time, which in a sort follows from
// the number of buckets. On cub::WarpScan ptxas spills, or takes 52 registers instead of 32.
template <int kWarps = 0>
__device__ __forceinline__ int ExclusiveSum(int value, int* scratch, int* total) {
  static_assert(kWarps == 0 || kWarps == 32);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int sum = InclusiveWarpSum(value);
  if (lane == 31) scratch[warp] = sum;
  __syncthreads();
  int before = 0;
  if constexpr (kWarps == 32) {
    const int others = scratch[lane];
    const int through = InclusiveWarpSum(others);
    *total = __shfl_sync(0xFFFFFFFFu, through, 31);
    before = __shfl_sync(0xFFFFFFFFu, through - others, warp);
  } else {
    const int warps = static_cast<int>(blockDim.x) / 32;
    int all = 0;
    for (int i = 0; i < warps; ++i) {
      if (i < warp) before += scratch[i];
      all += scratch[i];
    }
    *total = all;
  }
  __syncthreads();
  return before + sum - value;
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_SCAN_CUH_
