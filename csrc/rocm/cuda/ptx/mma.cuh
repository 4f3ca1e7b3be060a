// Matrix products of a warp (csrc/cuda/ptx/mma.cuh), by shuffles: few kernels of these families
// multiply, and only small matrices.
#ifndef VLLM_KERNELS_ROCM_PTX_MMA_CUH_
#define VLLM_KERNELS_ROCM_PTX_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "rocm/warp.h"

namespace vk::cuda::ptx {
namespace internal {

// Sum of the products of two pairs of a 16-bit T.
template <class T>
__device__ __forceinline__ float DotPair(uint32_t a, uint32_t b, float sum) {
  struct Pair {
    T low, high;
  };
  Pair x, y;
  memcpy(&x, &a, sizeof(x));
  memcpy(&y, &b, sizeof(y));
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    sum = fmaf(__bfloat162float(x.low), __bfloat162float(y.low), sum);
    return fmaf(__bfloat162float(x.high), __bfloat162float(y.high), sum);
  } else {
    sum = fmaf(__half2float(x.low), __half2float(y.low), sum);
    return fmaf(__half2float(x.high), __half2float(y.high), sum);
  }
}

}  // namespace internal

template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1, const float (&c)[4]) {
  const unsigned lane = rocm::WaveLane() % rocm::kWarpLanes, row = lane / 4, column = lane % 4 * 2;
  float sum[4] = {c[0], c[1], c[2], c[3]};
#pragma unroll
  for (unsigned part = 0; part < 4; ++part) {
    uint32_t left[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) left[i] = rocm::Shuffle(a[i], row * 4 + part);
#pragma unroll
    for (unsigned j = 0; j < 2; ++j) {
      const uint32_t low = rocm::Shuffle(b0, (column + j) * 4 + part);
      const uint32_t high = rocm::Shuffle(b1, (column + j) * 4 + part);
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) {
        sum[2 * i + j] = internal::DotPair<T>(left[i], low, sum[2 * i + j]);
        sum[2 * i + j] = internal::DotPair<T>(left[2 + i], high, sum[2 * i + j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_ROCM_PTX_MMA_CUH_
