// c = a @ dequantized(weights) + bias for up to 16 tokens on GPUs of compute capability 9.0:
// weights stream through shared memory in bulk copies, as deep as it is large.
//
// A block holds 64 or more columns for all of K, or a cluster's share of K; the sums of a cluster
// meet in shared memory, so that nothing but c is written. The kernel takes half an SM: where
// launches follow one another, the next one's blocks load their first weights, which depend on
// nothing before, while this one finishes. Numbers are those of marlin/kernel.cuh: exact weights,
// float32 sums per 64 of K, scaled in float32.
#ifndef VLLM_KERNELS_CUDA_WNA16_SMALL_M_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_SMALL_M_KERNEL_CUH_

#include "cuda/ptx/cluster.cuh"
#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/ptx/named_barrier.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/small_m/params.h"

namespace vk::cuda::wna16 {

template <class T>
using SmallMParamsOf = std::conditional_t<kScalesResult<T>, SmallMScaledParams, SmallMParams>;

template <class T, WeightType kType, class S>
class SmallMBlock {
 public:
  using SharedStorage = SmallMSharedStorage<S>;
  using Params = SmallMParamsOf<T>;

  __device__ __forceinline__ SmallMBlock(const Params& params, const CUtensorMap* tokens,
                                         const CUtensorMap* scales, unsigned char* shared)
      : p_(params),
        token_map_(tokens),
        scale_map_(scales),
        stages_(shared),
        pipeline_(reinterpret_cast<const typename Pipeline::SharedStorage&>(Shared().barriers)),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        cluster_(ptx::cluster_nctarank()),
        rank_(ptx::cluster_ctarank()) {
    packed_tile0_ = static_cast<int>(blockIdx.x) / cluster_ * S::kPackedTiles;
    packed_tiles_ = min(S::kPackedTiles, p_.n / kPackedTileN - packed_tile0_);
    begin_ = rank_ * p_.chunks;
    chunks_ = max(min(p_.chunks, p_.k / 64 - begin_), 0);
    steps_ = (chunks_ + S::kWarpsK - 1) / S::kWarpsK;
  }

  __device__ __forceinline__ void Run() {
    if (threadIdx.x == 0) {
      pipeline_.Init(S::kWarps, p_.stages);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
    if (cluster_ > 1) ptx::cluster_arrive();
    if (warp_ == S::kWarps) {
      Load();
    } else {
      Multiply();
    }
    Epilogue();
  }

 private:
  enum class NamedBarrier : int { kConsumers = 1 };

  using Stage = SmallMStage<S, kType>;
  using Pipeline = sm90::Pipeline<kSmallMMaxStages>;
  static_assert(sizeof(typename Pipeline::SharedStorage) == sizeof(SharedStorage::barriers));
  static constexpr int kChunkBytes = sizeof(Stage::weights[0][0]);  // 64 columns x 64 of K
  static_assert(S::kWarps * S::kFragments * kLanes * 16 <= 2 * sizeof(Stage),
                "the warps' sums fit two stages");

  __device__ __forceinline__ Stage& StageAt(int index) const {
    return *reinterpret_cast<Stage*>(stages_ + index * p_.stage_bytes);
  }

  // Behind the stages.
  __device__ __forceinline__ SharedStorage& Shared() const {
    return *reinterpret_cast<SharedStorage*>(stages_ + p_.stages * p_.stage_bytes);
  }

  __device__ __forceinline__ int ChunksOf(int step) const {
    return min(S::kWarpsK, chunks_ - step * S::kWarpsK);
  }

  // Of a chunk's first row of scales.
  __device__ __forceinline__ int Group(int chunk) const {
    if constexpr (IsFp4(kType)) return chunk * ScaleRows(kType);
    return static_cast<int>(static_cast<uint64_t>(chunk) * p_.group_magic >> 32);
  }

  // Weights, scales and zero points, which depend on no kernel before this one.
  __device__ __forceinline__ void LoadWeights(int step, const sm90::PipelineState& at) const {
    const int chunks = ChunksOf(step), first = begin_ + step * S::kWarpsK;
    Stage& to = StageAt(at.stage);
    const uint32_t full = pipeline_.full(at.stage);
    const int group = Group(first);
    const int groups = Group(first + chunks - 1) - group + ScaleRows(kType);
    if (lane_ == 0) {
      const int row =
          (p_.per_channel ? 0 : kPackedTileN * 2) + (HasZeroPoints(kType) ? kPackedTileN / 2 : 0);
      const int scales = IsFp4(kType) ? static_cast<int>(sizeof(to.scales))  // a box is whole
                                      : packed_tiles_ * groups * row;
      pipeline_.ProducerCommit(at,
                               packed_tiles_ * chunks * kChunkBytes + scales + TokenBytes(chunks));
    }
    __syncwarp();
    if (lane_ < packed_tiles_) {
      ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.weights[lane_]),
                         Weights(packed_tile0_ + lane_, first), chunks * kChunkBytes, full);
    }
    if constexpr (IsFp4(kType)) {
      if (lane_ == 16) {
        ptx::tma_load_2d(ptx::cvta_to_shared(to.scales), scale_map_, full,
                         packed_tile0_ * kPackedTileN, group);
      }
      return;
    }
    const int row = lane_ - 16;  // other lanes than those of the weights
    if (row >= 0 && row < groups) {
      const int64_t from = group + row;
      if (!p_.per_channel) {
        ptx::bulk_copy_g2s(
            ptx::cvta_to_shared(to.scales[row]),
            static_cast<const uint16_t*>(p_.scales) + from * p_.n + packed_tile0_ * kPackedTileN,
            packed_tiles_ * kPackedTileN * 2, full);
      }
      if constexpr (HasZeroPoints(kType)) {
        ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.zeros[row]),
                           p_.zeros + from * (p_.n / 8) + packed_tile0_ * (kPackedTileN / 8),
                           packed_tiles_ * kPackedTileN / 2, full);
      }
    }
  }

  // A row alone is copied as it is, which starts sooner; boxes are always whole.
  __device__ __forceinline__ int TokenBytes(int chunks) const {
    return p_.m == 1 ? chunks * 128 : p_.m * (S::kWarpsK * 128);
  }

  __device__ __forceinline__ void LoadTokens(int step, int stage) const {
    if (lane_ != 0) return;
    const uint32_t to = ptx::cvta_to_shared(&StageAt(stage) + 1);
    const int first = begin_ + step * S::kWarpsK;
    if (p_.m == 1) {
      ptx::bulk_copy_g2s(
          to, static_cast<const unsigned char*>(p_.a) + static_cast<int64_t>(first) * 128,
          TokenBytes(ChunksOf(step)), pipeline_.full(stage));
    } else {
      ptx::tma_load_3d(to, token_map_, pipeline_.full(stage), 0, 0, first);
    }
  }

  __device__ __forceinline__ const unsigned char* Weights(int packed_tile, int chunk) const {
    return static_cast<const unsigned char*>(p_.weights) +
           (static_cast<int64_t>(packed_tile) * (p_.k / 64) + chunk) * kChunkBytes;
  }

  // The producer's warp.
  __device__ __forceinline__ void Load() const {
    if (lane_ == 0) ptx::prefetch_tensormap(token_map_);
    if (IsFp4(kType) && lane_ == 16) ptx::prefetch_tensormap(scale_map_);
    const int first_round = min(p_.stages, steps_);
    for (int step = 0; step < first_round; ++step) LoadWeights(step, {step, 0});
    ptx::griddepcontrol_wait();
    for (int step = 0; step < first_round; ++step) LoadTokens(step, step);
    sm90::PipelineState at = {0, 1};  // the second round
    const int launch_step = max(steps_ - p_.last_steps, first_round);
    for (int step = first_round; step < steps_; ++step) {
      if (step == launch_step) ptx::griddepcontrol_launch_dependents();
      pipeline_.ProducerAcquire(at);
      LoadWeights(step, at);
      LoadTokens(step, at.stage);
      at.Advance(p_.stages);
    }
    if (launch_step >= steps_) ptx::griddepcontrol_launch_dependents();
  }

  // The consumers' warps.
  __device__ __forceinline__ void Multiply() {
    const int packed_tile = warp_ % S::kWarpsN, chunk = warp_ / S::kWarpsN;
#pragma unroll
    for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total_[i][j][e] = 0;
      }
    }
    sm90::PipelineState at;
    for (int step = 0; step < steps_; ++step) {
      pipeline_.ConsumerWait(at);
      if (packed_tile < packed_tiles_ && chunk < ChunksOf(step)) {
        const int first = begin_ + step * S::kWarpsK;
        const int row = Group(first + chunk) - Group(first);
        MultiplyChunk(StageAt(at.stage), packed_tile, chunk, row);
      }
      __syncwarp();
      if (lane_ == 0) pipeline_.ConsumerRelease(at.stage);
      at.Advance(p_.stages);
    }
  }

  // `row`: of the stage's scales and zero points.
  __device__ __forceinline__ void MultiplyChunk(const Stage& stage, int packed_tile, int chunk,
                                                int row) {
    const auto& weights = stage.weights[packed_tile][chunk];
    const auto* const tokens = reinterpret_cast<const unsigned char*>(&stage + 1);
    uint32_t adjust[S::kMmaTiles][2];
    if constexpr (HasZeroPoints(kType)) {
      LoadZeros<T>(adjust, &stage.zeros[row][packed_tile * (kPackedTileN / 8) + lane_ / 4], 0);
    }
    const auto* const scales = &stage.scales[row][packed_tile * kPackedTileN + lane_ / 4 * 8];
    uint32_t pairs[S::kMmaTiles];
    if constexpr (!IsFp4(kType)) LoadScalePairs(pairs, scales);
    float sum[S::kMmaTiles][S::kTokenTiles][4];
#pragma unroll
    for (int slice = 0; slice < 4; ++slice) {
      uint32_t b[S::kTokenTiles][2];
      LoadFragments(b, tokens, chunk, slice);
      if constexpr (IsFp4(kType)) {
        constexpr int kSlices = Fp4Group(kType) / kPackedTileK;  // that share scales
        if (slice % kSlices == 0) {
          LoadFp4Scales<T, kType>(adjust, scales + slice / kSlices * S::kColumns, 0);
        }
      }
      uint32_t words[S::kMmaTiles * Bits(kType) / 4];
      LoadWords<kType, S::kMmaTiles>(words, weights[slice], lane_, 0);
#pragma unroll
      for (int i = 0; i < S::kMmaTiles; ++i) {
        uint32_t a[4];
        Dequantize<T, kType>(a, words, i, adjust[i]);
#pragma unroll
        for (int j = 0; j < S::kTokenTiles; ++j) {
          if constexpr (IsFp4(kType)) {
            Mma<T>(total_[i][j], a, b[j], total_[i][j]);
          } else if (slice == 0) {
            const float none[4] = {0, 0, 0, 0};
            Mma<T>(sum[i][j], a, b[j], none);
          } else {
            Mma<T>(sum[i][j], a, b[j], sum[i][j]);
          }
        }
      }
    }
    if constexpr (!IsFp4(kType)) AddScaled<T, kType>(total_, sum, pairs, p_.per_channel != 0);
  }

  // The fragments of all tokens for the 16 of K number `slice` of a chunk. Tokens beyond the last
  // repeat it: their columns of the product are not written.
  __device__ __forceinline__ void LoadFragments(uint32_t (&b)[S::kTokenTiles][2],
                                                const unsigned char* tokens, int chunk,
                                                int slice) const {
    const int vector = 2 * slice + lane_ / 8 % 2;
    const auto from = [&](int token) {
      const int row = chunk * p_.m + min(token, p_.m - 1);
      return ptx::cvta_to_shared(tokens + row * 128 + (p_.m == 1 ? vector : vector ^ row % 8) * 16);
    };
    if constexpr (S::kTokenTiles == 1) {
      ptx::ldmatrix_x2(b[0], from(lane_ % 8));
    } else {
      uint32_t four[4];
      ptx::ldmatrix_x4(four, from(lane_ / 16 * 8 + lane_ % 8));
      b[0][0] = four[0];
      b[0][1] = four[1];
      b[1][0] = four[2];
      b[1][1] = four[3];
    }
  }

  static __device__ __forceinline__ void SyncConsumers() {
    ptx::named_barrier_sync(static_cast<int>(NamedBarrier::kConsumers), S::kWarps * kLanes);
  }

  // Adds up the warps, then the cluster's blocks, each of which writes its part of the tile.
  __device__ __forceinline__ void Epilogue() {
    constexpr int kAll = S::kAllFragments;
    float4* const sums = reinterpret_cast<float4*>(stages_);
    const bool adds = warp_ < S::kWarps;
    if (adds) {
      SyncConsumers();  // all have done with the stages
#pragma unroll
      for (int f = 0; f < S::kFragments; ++f) {
        const float (&s)[4] = total_[f / S::kTokenTiles][f % S::kTokenTiles];
        sums[(warp_ * S::kFragments + f) * kLanes + lane_] = make_float4(s[0], s[1], s[2], s[3]);
      }
      SyncConsumers();
    }
    if (cluster_ > 1) {
      __syncwarp();
      ptx::cluster_wait();  // all have started
    }
    const int each = kAll / cluster_;  // fragments that a block writes
    float4 sum = make_float4(0, 0, 0, 0);
    if (adds) {
      const uint32_t to = ptx::cvta_to_shared(Shared().cluster_sums[rank_ * each]);
      for (int f = warp_; f < kAll; f += S::kWarps) {
        sum = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < S::kWarpsK; ++w) Add(sum, sums[(w * kAll + f) * kLanes + lane_]);
        if (cluster_ == 1) {
          if (f == warp_) ptx::griddepcontrol_wait();
          Write(f, sum);
        } else {
          ptx::st_shared_cluster(ptx::mapa(to + (f % each * kLanes + lane_) * 16, f / each), sum);
        }
      }
    }
    if (cluster_ == 1) return;
    __syncwarp();
    ptx::cluster_arrive();
    ptx::cluster_wait();
    if (!adds) return;
    ptx::griddepcontrol_wait();
    const float4* const received = reinterpret_cast<const float4*>(Shared().cluster_sums);
    for (int f = warp_; f < each; f += S::kWarps) {
      sum = make_float4(0, 0, 0, 0);
      for (int from = 0; from < cluster_; ++from) {
        Add(sum, received[(from * each + f) * kLanes + lane_]);
      }
      Write(rank_ * each + f, sum);
    }
  }

  static __device__ __forceinline__ void Add(float4& sum, const float4& one) {
    sum.x += one.x;
    sum.y += one.y;
    sum.z += one.z;
    sum.w += one.w;
  }

  // Scale per channel, bias, rounding; neighbouring columns meet in one register.
  __device__ __forceinline__ void Write(int fragment, const float4& sum) const {
    const int packed_tile = fragment / (4 * S::kTokenTiles);
    const int part = fragment % (4 * S::kTokenTiles);
    if (packed_tile >= packed_tiles_) return;
    const int n0 = (packed_tile0_ + packed_tile) * kPackedTileN + part / S::kTokenTiles * 16;
    const auto* const bias = static_cast<const uint16_t*>(p_.bias);
    const ColumnScales<T, kType> scales(p_, p_.scales, 0);
    float values[4] = {sum.x, sum.y, sum.z, sum.w};
    if constexpr (kScalesResult<T>) {
      const int first = part % S::kTokenTiles * 8 + 2 * (lane_ % 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] *= p_.token_scales[min(first + i % 2, p_.m - 1)];
    }
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int column = n0 + 8 * high + lane_ / 4, position = ChannelPosition(column);
      float scale = scales[position];
      if constexpr (kScalesResult<T>) scale *= p_.channel_scales[column];
      const float offset = bias != nullptr ? T::ToFloat(bias[position]) : 0.f;
      const uint32_t mine = T::FromFloat(values[2 * high] * scale + offset);
      const uint32_t next = T::FromFloat(values[2 * high + 1] * scale + offset);
      // The lanes of an even and an odd column trade: one takes the first token, one the second.
      const bool odd = lane_ / 4 % 2 != 0;
      const uint32_t traded = __shfl_xor_sync(0xffffffffu, odd ? mine : next, 4);
      const int token = part % S::kTokenTiles * 8 + 2 * (lane_ % 4) + (odd ? 1 : 0);
      if (token >= p_.m) continue;
      const uint32_t pair = odd ? traded | next << 16 : mine | traded << 16;
      *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p_.c) +
                                   static_cast<int64_t>(token) * p_.n + (column & ~1)) = pair;
    }
  }

  const Params& p_;
  const CUtensorMap* const token_map_;  // 64 of K, rows, chunks of K
  const CUtensorMap* const scale_map_;  // columns, groups: FP4 only
  unsigned char* const stages_;
  const Pipeline pipeline_;
  const int lane_, warp_, cluster_, rank_;
  int packed_tile0_, packed_tiles_;  // columns of this block, in packed tiles
  int begin_, chunks_, steps_;       // and its share of K, in chunks of 64
  float total_[S::kMmaTiles][S::kTokenTiles][4];
};

template <class T, WeightType kType, class S>
__global__ void __launch_bounds__(S::kThreads, 2)
    SmallMKernel(const __grid_constant__ SmallMParamsOf<T> params,
                 const __grid_constant__ CUtensorMap tokens,
                 const __grid_constant__ CUtensorMap scales) {
  extern __shared__ __align__(1024) unsigned char vk_small_m[];
  SmallMBlock<T, kType, S>(params, &tokens, &scales, vk_small_m).Run();
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_SMALL_M_KERNEL_CUH_
