// Tokens in the order of their experts, so that the copies of a tile are one box of rows: boxes of
// single rows, 64 a step, take several times as long as the products.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_GATHER_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_GATHER_CUH_

#include "cuda/common/pdl.cuh"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

inline constexpr int kGatherThreads = 128;

// A block for each place.
__global__ void __launch_bounds__(kGatherThreads)
    GatherTokensKernel(uint4* out, const uint4* a, int64_t lda, int vectors,
                       const __grid_constant__ MarlinExpertParams experts) {
  constexpr int kInFlight = 4;  // vectors of a thread
  PdlPrologue();
  const auto place = static_cast<int64_t>(blockIdx.x);
  if (place >= *experts.padded) return;
  const int row = experts.sorted[place];
  if (row < 0 || row >= experts.rows) return;
  const uint4* const from = a + row / experts.top_k * lda;
  uint4* const to = out + place * vectors;
  for (int base = static_cast<int>(threadIdx.x); base < vectors;
       base += kInFlight * kGatherThreads) {
    uint4 vector[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (base + i * kGatherThreads < vectors) vector[i] = from[base + i * kGatherThreads];
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (base + i * kGatherThreads < vectors) to[base + i * kGatherThreads] = vector[i];
    }
  }
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_GATHER_CUH_
