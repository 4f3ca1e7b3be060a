// Products with scales of blocks for many tokens: tokens are the rows of the tensor cores' tile, so
// that a thread needs the scales of two of them. Two warpgroups have 64 tokens each; products of
// 128 of k are scaled and added up in float32, by one warpgroup while the other's multiply.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_ROWS_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_ROWS_CUH_

#include <cstdint>

#include "cuda/common/dtype.cuh"
#include "cuda/moe_gemm/blocks_loader.cuh"
#include "cuda/moe_gemm/blocks_works.cuh"
#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/smem_desc.cuh"

namespace vk::cuda::moe_gemm {

template <int kColumns, int kAllStages>
struct RowsSharedStorage {
  static constexpr int kTokens = kRowTokens, kStages = kAllStages;
  struct Stage {
    char tokens[kRowTokens * kDepth];
    char weights[kColumns * kDepth];
  };
  Stage stages[kStages];
  char out[kConsumerWarps][16 * 128];  // of a warp each: 16 tokens, 64 columns
  struct Scales {
    alignas(16) float tokens[kRowTokens];
    alignas(16) float weights[(kColumns + kScaleBlock - 1) / kScaleBlock];

    __device__ __forceinline__ float* Of(int token) { return &tokens[token]; }
  };
  Scales scales[kStages];
  CountTable table;  // without labels
  typename sm90::Pipeline<kStages>::SharedStorage pipeline;
};

template <int kColumns>
using RowsStorage = RowsSharedStorage<
    kColumns, FittingStages<RowsSharedStorage<kColumns, 1>, RowsSharedStorage<kColumns, 2>>()>;

// A tile has kColumns weights, of which a warpgroup multiplies up to 128 at a time. kSplit: blocks
// of a cluster that share k; such a block has one tile.
template <int kColumns, int kSplit>
class RowsBlock {
 public:
  using Storage = RowsStorage<kColumns>;
  static constexpr int kStages = Storage::kStages;
  using Tiles = Works<kRowTokens, kColumns, kSplit>;
  using Loader = BlocksLoader<Storage, Tiles>;
  using Pipeline = sm90::Pipeline<kStages>;

  __device__ __forceinline__ RowsBlock(const Blocks& blocks, Storage& storage)
      : b_(blocks),
        storage_(storage),
        pipeline_(storage.pipeline),
        stages_(ptx::cvta_to_shared(&storage)),
        lane_(static_cast<int>(threadIdx.x) % 32),
        rank_(kSplit > 1 ? ptx::cluster_ctarank() : 0) {
    const int32_t all = (b_.k + kDepth - 1) / kDepth, each = (all + kSplit - 1) / kSplit;
    begin_ = kSplit > 1 ? rank_ * each : 0;
    depth_ = min(each, all - begin_);
  }

  __device__ __forceinline__ void Run(const BlocksMaps& maps) {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        pipeline_.InitStage(stage, kConsumerWarps, Loader::kProducers);
      }
      ptx::fence_mbarrier_init();
    }
    if constexpr (kSplit > 1) SyncCluster();
    ptx::griddepcontrol_wait();
    CountTiles<kRowTokens>(b_, storage_.table);
    if (threadIdx.x < 128) {
      ptx::setmaxnreg_dec<40>();
      Loader(b_, storage_, begin_, depth_).Run(maps);
      if constexpr (kSplit > 1) {  // as Exchange()
        __syncwarp();
        SyncCluster();
        SyncCluster();
      }
    } else {
      ptx::setmaxnreg_inc<232>();
      // A shuffle tells the compiler that it is the same for a warp.
      Multiply(__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0) - 1);
    }
    // A block whose shared memory another one uses stays.
    if constexpr (kSplit > 1) {
      __syncwarp();
      SyncCluster();
    }
  }

 private:
  static constexpr uint32_t kStageBytes = sizeof(typename Storage::Stage);
  static constexpr uint32_t kTokenBytes = sizeof(Storage::Stage::tokens);
  // Weights that are multiplied at a time, and how many of them have one scale: tiles of 192 begin
  // in the middle of a block of scales every other time.
  static constexpr bool kThirds = kColumns == 192;
  static constexpr int kUnit = kThirds || kColumns < kScaleBlock ? kColumns : kScaleBlock;
  static constexpr int kUnits = kColumns / kUnit;
  static constexpr int kParts = kThirds ? 3 : 1;  // of a unit

  __device__ __forceinline__ void Multiply(int group) const {
    Tiles works(b_, storage_.table);
    sm90::PipelineState at;
    TileOfWork tile;
    while (works.Next(tile)) {
      if (kSplit == 1 && group * 64 >= tile.count) {  // none of the warpgroup's
        for (int32_t i = 0; i < depth_; ++i, at.Advance(kStages)) {
          pipeline_.ConsumerWait(at);
          Release(at.stage);
        }
        continue;
      }
      float sums[kUnits][kUnit / 2];
#pragma unroll
      for (auto& unit : sums) {
#pragma unroll
        for (float& sum : unit) sum = 0.0f;
      }
      AddChunks(sums, at, group, tile.weight_row % kScaleBlock != 0);
      if constexpr (kSplit == 1) {
        StoreAs(&sums[0][0], tile, group, 0);
      } else {
        float own[kColumns / kSplit / 2];
        Exchange(sums, own);
        StoreAs(own, tile, group, rank_ * (kColumns / kSplit));
        return;
      }
    }
    if constexpr (kSplit > 1) {  // there is no tile, for no block of the cluster
      SyncCluster();
      SyncCluster();
    }
  }

  __device__ __forceinline__ void AddChunks(float (&sums)[kUnits][kUnit / 2],
                                            sm90::PipelineState& at, int group,
                                            bool shifted) const {
    // The thread's first token; the other one is eight behind it.
    const int token = group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane_ / 4;
    const uint64_t first_tokens = sm90::MakeSmemDesc<ptx::Major::kK>(stages_ + group * 64 * kDepth);
    const uint64_t first_weights = sm90::MakeSmemDesc<ptx::Major::kK>(stages_ + kTokenBytes);
    uint64_t tokens, weights;
    const auto set_stage = [&] {
      tokens = sm90::AdvanceSmemDesc(first_tokens, at.stage * kStageBytes);
      weights = sm90::AdvanceSmemDesc(first_weights, at.stage * kStageBytes);
    };
    set_stage();
    // Between the sums of a chunk and the products of the next one there is little more than those:
    // scales are read while tensor cores work, and the next stage is asked for before the sums.
    bool ready = false;
    for (int32_t i = 0; i < depth_; ++i) {
      if (!ready) pipeline_.ConsumerWait(at);
      const int stage = at.stage;
      const auto& scales = storage_.scales[stage];
      float low, high, each[kUnits * kParts];
#pragma unroll
      for (int unit = 0; unit < kUnits; ++unit) {
        float part[kUnit / 2];
        if constexpr (kClearSums) {
#pragma unroll
          for (float& sum : part) sum = 0.0f;
        }
        ptx::warpgroup_fence_operand(part);
        ptx::wgmma_fence();
#pragma unroll
        for (int k = 0; k < kDepth; k += 32) {
          ptx::wgmma_ss<E4M3>(part, sm90::AdvanceSmemDesc(tokens, k),
                              sm90::AdvanceSmemDesc(weights, unit * kUnit * kDepth + k),
                              kClearSums || k > 0);
        }
        ptx::wgmma_commit_group();
        if (unit == 0) {
          low = scales.tokens[token];
          high = scales.tokens[token + 8];
          if constexpr (kThirds) {
            each[0] = scales.weights[0];
            each[2] = scales.weights[1];
            each[1] = shifted ? each[2] : each[0];
          } else {
#pragma unroll
            for (int j = 0; j < kUnits; ++j) each[j] = scales.weights[j];
          }
        }
        float two[kParts][2];
#pragma unroll
        for (int j = 0; j < kParts; ++j) {
          two[j][0] = low * each[unit * kParts + j];
          two[j][1] = high * each[unit * kParts + j];
        }
        ptx::wgmma_wait_group<0>();
        ptx::warpgroup_fence_operand(part);
        if (unit + 1 == kUnits) {
          Release(stage);
          at.Advance(kStages);
          ready = pipeline_.ConsumerTest(at);
          set_stage();
        }
#pragma unroll
        for (int e = 0; e < kUnit / 2; ++e) {
          sums[unit][e] += two[e * 2 * kParts / kUnit][e / 2 % 2] * part[e];
        }
      }
    }
  }

  // The sums of all blocks for the columns that this one stores, always in the same order.
  __device__ __forceinline__ void Exchange(const float (&sums)[kUnits][kUnit / 2],
                                           float (&own)[kColumns / kSplit / 2]) const {
    constexpr int kFours = kColumns / kSplit / 8;  // of a thread, for each block
    const int thread = static_cast<int>(threadIdx.x) - 128;
    static_assert(kSplit * kFours * 256 * sizeof(float4) <= sizeof(Storage::stages));
    __syncwarp();
    SyncCluster();  // nobody loads or multiplies any more
    const float* const from = &sums[0][0];
#pragma unroll
    for (int to = 0; to < kSplit; ++to) {
      const uint32_t place = ptx::mapa(stages_ + (rank_ * kFours * 256 + thread) * 16, to);
#pragma unroll
      for (int i = 0; i < kFours; ++i) {
        const float* const four = from + (to * kFours + i) * 4;
        ptx::st_shared_cluster(place + i * 256 * 16,
                               make_float4(four[0], four[1], four[2], four[3]));
      }
    }
    SyncCluster();
    const float4* const all = reinterpret_cast<const float4*>(storage_.stages);
#pragma unroll
    for (int i = 0; i < kFours; ++i) {
      float4 sum = all[i * 256 + thread];
#pragma unroll
      for (int rank = 1; rank < kSplit; ++rank) {
        const float4 one = all[(rank * kFours + i) * 256 + thread];
        sum = make_float4(sum.x + one.x, sum.y + one.y, sum.z + one.z, sum.w + one.w);
      }
      own[4 * i] = sum.x;
      own[4 * i + 1] = sum.y;
      own[4 * i + 2] = sum.z;
      own[4 * i + 3] = sum.w;
    }
  }

  __device__ __forceinline__ void StoreAs(const float* sums, const TileOfWork& tile, int group,
                                          int column) const {
    if (b_.half) {
      Store<Half>(sums, tile, group, column);
    } else {
      Store<BFloat16>(sums, tile, group, column);
    }
  }

  // Each warp for itself: 16 tokens by 64 columns at a time, through shared memory. The sums are
  // those of the tile's columns from `column` on.
  template <class T>
  __device__ __forceinline__ void Store(const float* sums, const TileOfWork& tile, int group,
                                        int column) const {
    constexpr int kAll = kColumns / kSplit, kPiece = kAll < 64 ? kAll : 64;
    constexpr int kChunks = kPiece / 8, kRows = 32 / kChunks;  // of 16 bytes; stored at once
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int first = group * 64 + warp * 16;  // of the tile's tokens
    char* const buffer = storage_.out[group * 4 + warp];
    const uint32_t address = ptx::cvta_to_shared(buffer);
    T* const out = static_cast<T*>(b_.out) + (int64_t{tile.first_row} + first) * b_.out_row +
                   (b_.labels == nullptr ? tile.expert * b_.out_expert : 0) + tile.weight_row +
                   column;
    const int row = lane_ % 16;
#pragma unroll
    for (int begin = 0; begin < kAll; begin += kPiece) {
      __syncwarp();  // the buffer is free
#pragma unroll
      for (int chunk = 0; chunk < kChunks; chunk += 2) {
        const float* const from = sums + (begin + chunk * 8) / 2;
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = PackPair<T>(from[2 * i], from[2 * i + 1]);
        ptx::stmatrix_x4(address + row * 128 + ((chunk + lane_ / 16) ^ row % 8) * 16, pairs);
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 16; i += kRows) {
        const int token = i + lane_ / kChunks, chunk = lane_ % kChunks;
        if (first + token >= tile.count || tile.weight_row + column + begin + chunk * 8 >= b_.n) {
          continue;
        }
        *reinterpret_cast<uint4*>(out + token * b_.out_row + begin + chunk * 8) =
            *reinterpret_cast<const uint4*>(buffer + token * 128 + (chunk ^ token % 8) * 16);
      }
    }
  }

  __device__ __forceinline__ void Release(int stage) const {
    __syncwarp();
    if (lane_ == 0) pipeline_.ConsumerRelease(stage);
  }

  static __device__ __forceinline__ void SyncCluster() {
    ptx::cluster_arrive();
    ptx::cluster_wait();
  }

  const Blocks& b_;
  Storage& storage_;
  const Pipeline pipeline_;
  const uint32_t stages_;  // address
  const int lane_, rank_;
  int32_t begin_, depth_;  // chunks of k
};

template <int kColumns, int kSplit>
__global__ void __launch_bounds__(kThreads, 1)
    RowsKernel(const __grid_constant__ Blocks blocks, const __grid_constant__ CUtensorMap weights,
               const __grid_constant__ CUtensorMap tokens,
               const __grid_constant__ CUtensorMap few_tokens) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Block = RowsBlock<kColumns, kSplit>;
  extern __shared__ char unaligned[];
  auto& storage = sm90::AlignedStorage<typename Block::Storage>(unaligned);
  Block(blocks, storage).Run({&weights, &tokens, &few_tokens});
#endif
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_BLOCKS_ROWS_CUH_
