// Grouped GEMM with scales of blocks on Hopper: tokens have a scale for each 128 of k, weights one
// for each 128 x 128. As grouped.cuh (weights are the rows of the tensor cores' tile), but the
// products of 128 of k are scaled and added up in float32, by one warpgroup while the other's
// multiply.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/moe_gemm/blocks_loader.cuh"
#include "cuda/moe_gemm/blocks_works.cuh"
#include "cuda/moe_gemm/store.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::moe_gemm {

template <int kTokens, int kWaves>
class BlocksBlock {
 public:
  static constexpr int kRows = kWaves * kWeightRows;
  static_assert(kScaleBlock == kDepth && kScaleBlock == kWeightRows);
  using Storage = BlocksStorage<kTokens, kRows>;
  static constexpr int kStages = Storage::kStages;
  using Tiles = Works<kTokens, kRows>;
  using Loader = BlocksLoader<Storage, Tiles>;
  using Pipeline = sm90::Pipeline<kStages>;

  __device__ __forceinline__ BlocksBlock(const Blocks& blocks, Storage& storage)
      : b_(blocks),
        storage_(storage),
        pipeline_(storage.pipeline),
        stages_(ptx::cvta_to_shared(&storage)),
        lane_(static_cast<int>(threadIdx.x) % 32),
        depth_((b_.k + kDepth - 1) / kDepth) {}

  __device__ __forceinline__ void Run(const BlocksMaps& maps) {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        pipeline_.InitStage(stage, kConsumerWarps, Loader::kProducers);
      }
      ptx::fence_mbarrier_init();
    }
    ptx::griddepcontrol_wait();
    CountTiles<kTokens>(b_, storage_.table);
    if (threadIdx.x < 128) {
      ptx::setmaxnreg_dec<40>();
      Loader(b_, storage_, 0, depth_).Run(maps);
    } else {
      ptx::setmaxnreg_inc<232>();
      // A shuffle tells the compiler that it is the same for a warp.
      Multiply(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1);
    }
  }

 private:
  static constexpr uint32_t kStageBytes = sizeof(typename Storage::Stage);
  static constexpr uint32_t kTokenBytes = sizeof(Storage::Stage::tokens);

  __device__ __forceinline__ void Multiply(int group) const {
    Tiles works(b_, storage_.table);
    sm90::PipelineState at;
    TileOfWork tile;
    while (works.Next(tile)) {
      const int32_t first_weight = tile.weight_row + group * 64 * kWaves;
      float sums[kWaves][kTokens / 2];
#pragma unroll
      for (auto& wave : sums) {
#pragma unroll
        for (float& sum : wave) sum = 0.0f;
      }
      if (kTokens > 16 && tile.count <= 16) {
        AddChunks<16>(sums, at, group);
      } else if (kTokens > 32 && tile.count <= 32) {
        AddChunks<32>(sums, at, group);
      } else if (kTokens > 64 && tile.count <= 64) {
        AddChunks<64>(sums, at, group);
      } else {
        AddChunks<kTokens>(sums, at, group);
      }
      using T = BFloat16;
      T* const out = static_cast<T*>(b_.out) + int64_t{tile.first_row} * b_.out_row +
                     (b_.labels == nullptr ? tile.expert * b_.out_expert : 0);
#pragma unroll
      for (int wave = 0; wave < kWaves; ++wave) {
        const Place<T> place{out, b_.out_row, tile.count, first_weight + 64 * wave, b_.n};
        const auto result = [&](int token, int i) {
          const float* const two = sums[wave] + token / 2 + 2 * i;
          return make_float2(two[0], two[1]);
        };
        StoreTile<kTokens>(place, result, storage_.out[group], group);
      }
    }
  }

  // The products of the tile's first kPart tokens with the warpgroup's weights.
  template <int kPart>
  __device__ __forceinline__ void AddChunks(float (&sums)[kWaves][kTokens / 2],
                                            sm90::PipelineState& at, int group) const {
    constexpr int kFragments = kPart / 8;  // of eight tokens
    // More registers than these there are not: scales of many tokens are read as they are used.
    constexpr bool kEarly = kWaves * kTokens <= 128;
    const uint64_t first_weights =
        sm90::MakeSmemDesc<ptx::Major::kK>(stages_ + kTokenBytes + group * 64 * kWaves * kDepth);
    const uint64_t first_tokens = sm90::MakeSmemDesc<ptx::Major::kK>(stages_);
    for (int32_t i = 0; i < depth_; ++i, at.Advance(kStages)) {
      pipeline_.ConsumerWait(at);
      const uint64_t weights = sm90::AdvanceSmemDesc(first_weights, at.stage * kStageBytes);
      const uint64_t tokens = sm90::AdvanceSmemDesc(first_tokens, at.stage * kStageBytes);
      const auto& stage_scales = storage_.scales[at.stage];
      // In shared memory too: from global memory, every chunk would wait for the next one's.
      const float weight_scale = stage_scales.weights[kWaves == 1 ? 0 : group];
      const float4* const scales = reinterpret_cast<const float4*>(stage_scales.tokens[lane_ % 4]);
      float4 early[kEarly ? kFragments / 2 : 1];
#pragma unroll
      for (int wave = 0; wave < kWaves; ++wave) {
        float part[kPart / 2];
        if constexpr (kClearSums) {
#pragma unroll
          for (float& sum : part) sum = 0.0f;
        }
        ptx::warpgroup_fence_operand(part);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kDepth; k += 32) {
          ptx::wgmma_ss<E4M3>(part, sm90::AdvanceSmemDesc(weights, wave * 64 * kDepth + k),
                              sm90::AdvanceSmemDesc(tokens, k), kClearSums || k > 0);
        }
        ptx::wgmma_commit_group();
        if (kEarly && wave == 0) {
#pragma unroll
          for (int j = 0; j < kFragments / 2; ++j) early[kEarly ? j : 0] = scales[j];
        }
        ptx::wgmma_wait_group<0>();
        ptx::warpgroup_fence_operand(part);
        if (kEarly && wave + 1 == kWaves) Release(at.stage);
#pragma unroll
        for (int j = 0; j < kFragments / 2; ++j) {
          const float4 four = kEarly ? early[kEarly ? j : 0] : scales[j];
          const float each[4] = {four.x * weight_scale, four.y * weight_scale,
                                 four.z * weight_scale, four.w * weight_scale};
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            sums[wave][8 * j + e] += each[e / 4 * 2 + e % 2] * part[8 * j + e];
          }
        }
      }
      if constexpr (!kEarly) Release(at.stage);
    }
  }

  __device__ __forceinline__ void Release(int stage) const {
    __syncwarp();
    if (lane_ == 0) pipeline_.ConsumerRelease(stage);
  }

  const Blocks& b_;
  Storage& storage_;
  const Pipeline pipeline_;
  const uint32_t stages_;  // address
  const int lane_;
  const int32_t depth_;
};

template <int kTokens, int kWaves>
__global__ void __launch_bounds__(kThreads, 1)
    BlocksKernel(const __grid_constant__ Blocks blocks, const __grid_constant__ CUtensorMap weights,
                 const __grid_constant__ CUtensorMap tokens,
                 const __grid_constant__ CUtensorMap few_tokens) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Block = BlocksBlock<kTokens, kWaves>;
  extern __shared__ char unaligned[];
  auto& storage = sm90::AlignedStorage<typename Block::Storage>(unaligned);
  Block(blocks, storage).Run({&weights, &tokens, &few_tokens});
#endif
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_CUH_
