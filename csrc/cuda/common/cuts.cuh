// Divides the work of many entries into parts of equal cost, on the GPU, where the sizes are.
#ifndef VLLM_KERNELS_CUDA_COMMON_CUTS_CUH_
#define VLLM_KERNELS_CUDA_COMMON_CUTS_CUH_

#include <cstdint>

#include "cuda/common/cut.h"

namespace vk::cuda {

constexpr int kCutThreads = 256;
constexpr int kCutSharedBytes = kCutThreads / 32 * sizeof(int64_t);
// Of an entry beside its units: its queries and results.
constexpr int32_t kEntryCost = 2;

// The sum of the values of the block's threads up to this one, and of all.
__device__ __forceinline__ int64_t InclusiveSum(int64_t value, int64_t* warps, int64_t& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int64_t below = __shfl_up_sync(0xffffffffu, value, distance);
    if (lane >= distance) value += below;
  }
  if (lane == 31) warps[warp] = value;
  __syncthreads();
  int64_t before = 0;
  total = 0;
  for (int i = 0; i < kCutThreads / 32; ++i) {
    if (i < warp) before += warps[i];
    total += warps[i];
  }
  __syncthreads();
  return value + before;
}

// One block writes parts + 1 cuts. `units_of(entry)`: units of its work.
template <class UnitsOf>
__global__ void __launch_bounds__(kCutThreads)
    CutKernel(const UnitsOf units_of, int32_t entries, int32_t parts, Cut* schedule) {
  extern __shared__ char unaligned[];
  int64_t* warps = reinterpret_cast<int64_t*>(unaligned);
  const auto cost_of = [&](int32_t entry) {
    return entry < entries ? int64_t{units_of(entry)} + kEntryCost : 0;
  };
  int64_t mine = 0, total;
  for (int32_t entry = threadIdx.x; entry < entries; entry += kCutThreads) mine += cost_of(entry);
  InclusiveSum(mine, warps, total);
  const int64_t part_cost = max(int64_t{1}, (total + parts - 1) / parts);
  int64_t base = 0;
  for (int32_t first = 0; first < entries; first += kCutThreads) {
    const int32_t entry = first + static_cast<int32_t>(threadIdx.x);
    const int64_t cost = cost_of(entry);
    int64_t sum;
    const int64_t end = base + InclusiveSum(cost, warps, sum), begin = end - cost;
    base += sum;
    // The cuts within this entry.
    for (int64_t cut = (begin + part_cost - 1) / part_cost; cut * part_cost < end; ++cut) {
      const int64_t unit = max(int64_t{0}, cut * part_cost - begin - kEntryCost);
      schedule[cut] = {entry, static_cast<int32_t>(unit)};
    }
  }
  const int64_t used = (total + part_cost - 1) / part_cost;
  for (int64_t cut = used + threadIdx.x; cut <= parts; cut += kCutThreads) {
    schedule[cut] = {entries, 0};
  }
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_CUTS_CUH_
