// How results leave: a warpgroup's 64 weight rows by a tile's tokens, through shared memory.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_STORE_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_STORE_CUH_

#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/named_barrier.cuh"

namespace vk::cuda::moe_gemm {

enum class NamedBarrier {
  kWarpgroup = 1,  // and the next: of a warpgroup of the consumers each
};
constexpr int BarrierOf(int group) { return static_cast<int>(NamedBarrier::kWarpgroup) + group; }

// Results leave so many tokens at a time.
constexpr int OutTokens(int tokens) { return tokens < 64 ? tokens : 64; }

// Where a warpgroup's results go.
template <class T>
struct Place {
  T* out;  // of the tile's first token
  int64_t stride;
  int32_t count;  // tokens
  int32_t first_column, columns;
};

// `result(token, i)`: of the 16 tokens from `token` on, the thread's i-th pair of results: weight
// row i % 2, tokens 8 (i / 2) and the next. `buffer` is the warpgroup's.
template <int kTokens, class T, class Result>
__device__ __forceinline__ void StoreTile(const Place<T>& place, const Result& result, char* buffer,
                                          int group) {
  constexpr int kOutTokens = OutTokens(kTokens);
  const int thread = static_cast<int>(threadIdx.x) % 128, warp = thread / 32, lane = thread % 32;
  const uint32_t address = ptx::cvta_to_shared(buffer);
#pragma unroll
  for (int begin = 0; begin < kTokens; begin += kOutTokens) {
    if (begin >= place.count) continue;
    ptx::named_barrier_sync(BarrierOf(group), 128);  // the buffer is free
#pragma unroll
    for (int token = 0; token < kOutTokens; token += 16) {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 two = result(begin + token, i);
        pairs[i] = PackPair<T>(two.x, two.y);
      }
      const int row = token + lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
      ptx::stmatrix_x4_trans(address + row * 128 + ((chunk ^ (row % 8)) * 16), pairs);
    }
    ptx::named_barrier_sync(BarrierOf(group), 128);
    for (int i = thread; i < kOutTokens * 8; i += 128) {
      const int row = i / 8, chunk = i % 8;
      if (begin + row >= place.count || place.first_column + chunk * 8 >= place.columns) continue;
      T* to = place.out + (int64_t{begin} + row) * place.stride + place.first_column + chunk * 8;
      *reinterpret_cast<uint4*>(to) =
          *reinterpret_cast<const uint4*>(buffer + row * 128 + (chunk ^ (row % 8)) * 16);
    }
  }
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_STORE_CUH_
