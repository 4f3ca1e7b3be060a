// The order of entries that lie by expert already.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_BATCHED_ALIGN_CUH_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_BATCHED_ALIGN_CUH_

#include "cuda/common/scan.cuh"
#include "cuda/moe_routing/launch.h"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kBatchedThreads = 1024;

// Whatever the count says, an expert has max_tokens rows.
__device__ __forceinline__ int RowsInUse(const BatchedAlign& align, int expert) {
  return min(max(align.counts[expert], 0), align.max_tokens);
}

__global__ void __launch_bounds__(kBatchedThreads)
    BatchedAlignKernel(const __grid_constant__ BatchedAlign align) {
  __shared__ int starts[kMaxExperts + 1];
  __shared__ int scratch[32];
  const int block_size = align.block_size, nothing = align.experts * align.max_tokens;
  const int expert = static_cast<int>(threadIdx.x);
  const int own = expert < align.experts ? RowsInUse(align, expert) : 0;
  int all;
  const int padded = (own + block_size - 1) / block_size * block_size;
  const int start = ExclusiveSum<kBatchedThreads / 32>(padded, scratch, &all);
  starts[expert] = start;
  if (expert == 0) {
    starts[kMaxExperts] = all;
    if (blockIdx.x == 0) *align.total = all;
  }
  __syncthreads();
  // Each block does every gridDim.x-th expert; the rest is split evenly.
  for (int e = blockIdx.x; e < align.experts; e += gridDim.x) {
    const int count = RowsInUse(align, e), begin = starts[e], end = starts[e + 1];
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += blockDim.x) {
      if (i >= align.capacity) break;
      align.sorted[i] = i - begin < count ? e * align.max_tokens + i - begin : nothing;
    }
    for (int i = begin / block_size + threadIdx.x; i < end / block_size; i += blockDim.x) {
      if (i < align.blocks) align.block_experts[i] = e;
    }
  }
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = all + thread; i < align.capacity; i += threads) align.sorted[i] = nothing;
  for (int64_t i = all / block_size + thread; i < align.blocks; i += threads) {
    align.block_experts[i] = -1;
  }
}

}  // namespace
}  // namespace vk::cuda::moe_routing
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_BATCHED_ALIGN_CUH_
