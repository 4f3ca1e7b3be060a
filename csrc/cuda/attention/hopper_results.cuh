// How the Hopper prefill kernel writes its results.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_HOPPER_RESULTS_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_HOPPER_RESULTS_CUH_

#include <cstdint>

#include "cuda/attention/decode.cuh"
#include "cuda/attention/hopper_consumer.cuh"
#include "cuda/ptx/named_barrier.cuh"

namespace vk::cuda::attention {

// A warpgroup's rows of the tile, through `stage_rows`: the memory of its queries, which no product
// reads any more, so that rows are written in whole.
template <class T, int kHead, bool kExtras>
__device__ __forceinline__ void WriteResults(const Problem& p, const HopperPlan& plan,
                                             const HopperTile& tile,
                                             const HopperConsumer<T, kHead, kExtras>& consumer,
                                             char* stage_rows, int group) {
  using Traits = HopperTraits<kHead>;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int row_in_tile = group * 64 + warp * 16 + lane / 4;
  const int32_t rows = tile.request.query_len * p.group;
  float row_factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int32_t row = tile.first_row + row_in_tile + 8 * half;
    float total = consumer.sum[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    float top = consumer.maximum[half];
    if (!kExtras && top > -INFINITY) top *= consumer.logits.scale;
    row_factors[half] = 0.0f;
    if (row_in_tile + 8 * half < plan.tile_rows && row < rows) {
      const float v_scale = Scale(p.v_scale, p.v_scale_request_stride, p.v_scale_head_stride,
                                  tile.request.index, tile.kv_head);
      row_factors[half] = FinishRow<T>(p, tile.kv_head, row, v_scale, top, total);
      if (p.lse != nullptr && lane % 4 == 0) {
        StoreLse(p, tile.request, tile.kv_head, row, top, total);
      }
    }
  }
  ptx::named_barrier_sync(BarrierOf(NamedBarrier::kWarpgroup, group), 128);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + lane / 4 + 8 * half;
#pragma unroll
    for (int block = 0; block < kHead / 8; ++block) {
      const uint32_t pair = PackPair<T>(consumer.out[4 * block + 2 * half] * row_factors[half],
                                        consumer.out[4 * block + 2 * half + 1] * row_factors[half]);
      *reinterpret_cast<uint32_t*>(stage_rows + block / 8 * Traits::kQueryPanel + row * 128 +
                                   ((block % 8) ^ (row % 8)) * 16 + lane % 4 * 4) = pair;
    }
  }
  __syncwarp();
  constexpr int kChunks = kHead / 8;
  T* const out = static_cast<T*>(p.out) + tile.request.first_token * p.out_token_stride +
                 tile.kv_head * p.group * p.out_head_stride;
#pragma unroll
  for (int step = 0; step < kChunks / 2; ++step) {
    const int i = 32 * step + lane, chunk = i % kChunks;
    const int row = warp * 16 + i / kChunks, row_of_tile = group * 64 + row;
    const int32_t global = tile.first_row + row_of_tile;
    if (row_of_tile < plan.tile_rows && global < rows && chunk * 8 < p.value_head_size) {
      const auto [token, head] = plan.group(static_cast<uint32_t>(global));
      *reinterpret_cast<uint4*>(out + token * p.out_token_stride + head * p.out_head_stride +
                                chunk * 8) =
          *reinterpret_cast<const uint4*>(stage_rows + chunk / 8 * Traits::kQueryPanel + row * 128 +
                                          ((chunk % 8) ^ (row % 8)) * 16);
    }
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_HOPPER_RESULTS_CUH_
