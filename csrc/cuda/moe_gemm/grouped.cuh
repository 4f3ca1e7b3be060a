// Grouped GEMM on Hopper: a producer thread streams weights and tokens through shared memory by
// bulk tensor copies (TMA), two warpgroups multiply. Weights are the rows of the tensor cores' tile
// and tokens its columns, so that a tile takes as few as 16 tokens. Blocks are persistent and find
// their tiles in the sizes, which the host never sees.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_CUH_

#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/moe_gemm/grouped_tiles.cuh"
#include "cuda/moe_gemm/store.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::moe_gemm {

// The sums of the first tokens of a tile (of all, where it has no more).
template <int kFirst, int kCount>
__device__ __forceinline__ auto& FirstTokens(float (&sums)[kCount]) {
  constexpr int kPart = kFirst / 2 < kCount ? kFirst / 2 : kCount;
  return reinterpret_cast<float (&)[kPart]>(sums);
}

template <class T, int kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    GroupedKernel(const __grid_constant__ Grouped g, const __grid_constant__ CUtensorMap weight_map,
                  const __grid_constant__ CUtensorMap token_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kStages = StageCount<kTokens>(), kBox = BoxTokens(kTokens);
  using Storage = Storage<kTokens>;
  using Pipeline = sm90::Pipeline<kStages>;
  constexpr uint32_t kStageBytes = sizeof(typename Storage::Stage);
  constexpr uint32_t kWeightBytes = sizeof(Storage::Stage::weights);
  extern __shared__ char unaligned[];
  auto& storage = sm90::AlignedStorage<Storage>(unaligned);
  Table& table = storage.table;
  const uint32_t stages = ptx::cvta_to_shared(&storage);
  const Pipeline pipeline(storage.pipeline);
  if (threadIdx.x == 0) {
    pipeline.Init(kConsumerWarps);
    ptx::fence_mbarrier_init();
  }
  FillTable<kTokens>(g.experts, table, [&](int expert) { return RowsOf(g, expert); });

  const int32_t columns = (g.n + kWeightRows - 1) / kWeightRows;
  const int32_t work = table.before[g.experts] * columns;
  const int32_t first = static_cast<int32_t>(blockIdx.x), step = static_cast<int32_t>(gridDim.x);
  const int32_t depth = (g.k + kDepth - 1) / kDepth;
  sm90::PipelineState at;

  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x == 0) {
      for (int32_t index = first; index < work; index += step) {
        const TileOfWork tile = FindTile<kTokens>(g.experts, table, columns, index);
        const int boxes = (tile.count + kBox - 1) / kBox;
        for (int32_t i = 0; i < depth; ++i, at.Advance(kStages)) {
          pipeline.ProducerAcquire(at);
          pipeline.ProducerCommit(at, kWeightBytes + boxes * kBox * kDepth);
          const uint32_t to = stages + at.stage * kStageBytes;
          ptx::tma_load_3d(to, &weight_map, pipeline.full(at.stage), i * kDepth, tile.weight_row,
                           tile.expert);
          for (int box = 0; box < boxes; ++box) {
            ptx::tma_load_3d(to + kWeightBytes + box * kBox * kDepth, &token_map,
                             pipeline.full(at.stage), i * kDepth, tile.first_row + box * kBox, 0);
          }
        }
      }
    }
  } else {
    ptx::setmaxnreg_inc<232>();
    // A shuffle tells the compiler that it is the same for a warp.
    const int group = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1;
    const uint64_t first_weights = sm90::MakeSmemDesc<ptx::Major::kK>(stages + group * 64 * kDepth);
    const uint64_t first_tokens = sm90::MakeSmemDesc<ptx::Major::kK>(stages + kWeightBytes);
    const int thread = static_cast<int>(threadIdx.x) % 128, lane = thread % 32;
    char* buffer = storage.out[group];
    float* my_scales = storage.scales[group];
    const auto release = [&](int used) {
      if (lane == 0) pipeline.ConsumerRelease(used);
    };
    for (int32_t index = first; index < work; index += step) {
      const TileOfWork tile = FindTile<kTokens>(g.experts, table, columns, index);
      float row_scales[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int32_t row = tile.weight_row + group * 64 + thread / 32 * 16 + lane / 4 + 8 * half;
        const int64_t at = g.per_channel ? int64_t{tile.expert} * g.n + row : tile.expert;
        row_scales[half] = row < g.n ? g.weight_scales[at] : 0.0f;
      }
      // Loaded now and stored when the products are done, so that none of them waits.
      constexpr int kScales = (kTokens + 127) / 128;  // of a thread
      float loaded_scales[kScales];
#pragma unroll
      for (int i = 0; i < kScales; ++i) {
        const int token = thread + 128 * i;
        const int64_t at = g.per_token    ? int64_t{tile.first_row} + token
                           : g.per_expert ? tile.expert
                                          : 0;
        loaded_scales[i] = token < tile.count ? g.token_scales[at] : 0.0f;
      }

      float sums[kTokens / 2];
      if constexpr (kClearSums) {
#pragma unroll
        for (float& sum : sums) sum = 0.0f;
      }
      // All products of the tile, into as many of its sums as are given.
      const auto multiply = [&](auto& part) {
        int before = 0;
        for (int32_t i = 0; i < depth; ++i) {
          pipeline.ConsumerWait(at);
          const uint64_t weights = sm90::AdvanceSmemDesc(first_weights, at.stage * kStageBytes);
          const uint64_t tokens = sm90::AdvanceSmemDesc(first_tokens, at.stage * kStageBytes);
          ptx::warpgroup_fence_operand(part);
          ptx::wgmma_fence();
#pragma unroll
          for (int k = 0; k < kDepth; k += 32) {
            ptx::wgmma_ss<E4M3>(part, sm90::AdvanceSmemDesc(weights, k),
                                sm90::AdvanceSmemDesc(tokens, k), kClearSums || i > 0 || k > 0);
          }
          ptx::wgmma_commit_group();
          if (i > 0) {
            // The stage before is read; this one's products go on.
            ptx::wgmma_wait_group<1>();
            ptx::warpgroup_fence_operand(part);
            release(before);
          }
          before = at.stage;
          at.Advance(kStages);
        }
        ptx::wgmma_wait_group<0>();
        ptx::warpgroup_fence_operand(part);
        release(before);
      };
      const int boxes = (tile.count + kBox - 1) / kBox;
      if (kTokens / kBox > 1 && boxes == 1) {
        multiply(FirstTokens<kBox>(sums));
      } else if (kTokens / kBox > 2 && boxes == 2) {
        multiply(FirstTokens<2 * kBox>(sums));
      } else if (kTokens / kBox > 3 && boxes == 3) {
        multiply(FirstTokens<3 * kBox>(sums));
      } else {
        multiply(sums);
      }
#pragma unroll
      for (int i = 0; i < kScales; ++i) {
        if (thread + 128 * i < kTokens) my_scales[thread + 128 * i] = loaded_scales[i];
      }
      const Place<T> place{static_cast<T*>(g.out) + int64_t{tile.first_row} * g.out_stride,
                           g.out_stride, tile.count, tile.weight_row + group * 64, g.n};
      const auto result = [&](int token, int i) {
        const int at = token / 2 + 2 * i;
        const float row = row_scales[i % 2], *two = my_scales + token + lane % 4 * 2 + i / 2 * 8;
        return make_float2(sums[at] * (row * two[0]), sums[at + 1] * (row * two[1]));
      };
      StoreTile<kTokens>(place, result, buffer, group);
    }
  }
#endif
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_GROUPED_CUH_
