// Shared by the GEMMs with GPTQ and AWQ weights as the checkpoint holds them: a block sums its
// columns over kBlockK of K, warp by warp, and a second kernel adds the blocks' sums in order.
#ifndef VLLM_KERNELS_CUDA_WNA16_UNPACKED_UNPACKED_CUH_
#define VLLM_KERNELS_CUDA_WNA16_UNPACKED_UNPACKED_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/common/launch.h"
#include "cuda/wna16/common/arithmetic.cuh"

namespace vk::cuda::wna16 {

inline constexpr int kUnpackedWarps = 8;
inline constexpr int kUnpackedThreads = 32 * kUnpackedWarps;
inline constexpr int kWarpK = 64;  // of K that a warp sums
inline constexpr int kBlockK = kWarpK * kUnpackedWarps;

inline int64_t UnpackedSplits(int64_t k) { return (k + kBlockK - 1) / kBlockK; }

// Activations of kTokens tokens for this block's part of K, as float32; zeros beyond M and K.
template <class T, int kTokens>
__device__ __forceinline__ void StageTokens(float (&to)[kTokens][kBlockK], const uint16_t* a,
                                            int64_t lda, const int32_t* perm, int m0, int m, int k0,
                                            int k) {
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kBlockK; i += kUnpackedThreads) {
    const int token = i / kBlockK, row = k0 + i % kBlockK;
    float value = 0;
    if (m0 + token < m && row < k) {
      const int column = perm != nullptr ? min(max(perm[row], 0), k - 1) : row;
      value = T::ToFloat(a[(m0 + token) * lda + column]);
    }
    to[token][i % kBlockK] = value;
  }
  __syncthreads();
}

// out[m, n] = sum over splits of partials[split, m, n], in order.
template <class T>
__global__ void __launch_bounds__(256)
    AddSplits(uint16_t* out, const float* partials, int64_t count, int splits) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= count) return;
  float sum = 0;
  for (int split = 0; split < splits; ++split) sum += partials[split * count + index];
  out[index] = T::FromFloat(sum);
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_UNPACKED_UNPACKED_CUH_
