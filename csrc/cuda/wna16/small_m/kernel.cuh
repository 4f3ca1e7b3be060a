// c = a @ dequantized(weights) + bias for up to 16 tokens on GPUs of compute capability 9.0:
// weights stream through shared memory in bulk copies, as deep as it is large.
//
// A block holds 64 or more columns for all of K, or a cluster's share of K; the sums of a cluster
// meet in shared memory, so that nothing but c is written. The kernel takes half a multiprocessor:
// where launches follow one another, the next one's blocks load their first weights, which depend
// on nothing before, while this one finishes. Numbers are those of marlin/kernel.cuh: exact
// weights, float32 sums per 64 of K, scaled in float32.
#ifndef VLLM_KERNELS_CUDA_WNA16_SMALL_M_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_SMALL_M_KERNEL_CUH_

#include "cuda/wna16/common/bulk.cuh"
#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/small_m/params.h"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
class SmallMBlock {
 public:
  __device__ __forceinline__ SmallMBlock(const SmallMParams& params, const CUtensorMap* tokens,
                                         unsigned char* shared)
      : p_(params),
        map_(tokens),
        stages_(shared),
        cluster_sums_(shared + params.stages * params.stage_bytes),
        full_(SharedAddress(cluster_sums_ + S::kClusterSumBytes)),
        empty_(full_ + 8 * kSmallMMaxStages),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        cluster_(ClusterSize()),
        rank_(ClusterRank()) {
    packed_tile0_ = static_cast<int>(blockIdx.x) / cluster_ * S::kPackedTiles;
    packed_tiles_ = min(S::kPackedTiles, p_.n / kPackedTileN - packed_tile0_);
    begin_ = rank_ * p_.chunks;
    chunks_ = max(min(p_.chunks, p_.k / 64 - begin_), 0);
    steps_ = (chunks_ + S::kWarpsK - 1) / S::kWarpsK;
  }

  __device__ __forceinline__ void Run() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < p_.stages; ++stage) {
        BarrierInit(full_ + 8 * stage, 1);
        BarrierInit(empty_ + 8 * stage, S::kWarps);
      }
      BarrierInitFence();
    }
    __syncthreads();
    if (cluster_ > 1) ClusterArrive();
    if (warp_ == S::kWarps) {
      Load();
    } else {
      Multiply();
    }
    Epilogue();
  }

 private:
  using Stage = SmallMStage<S, kType>;
  static constexpr bool kHasZeros = kType == WeightType::kU4;
  static constexpr int kPackedTileBytes = PackedTileWords(Bits(kType)) * 4;
  static_assert(S::kWarps * S::kFragments * kLanes * 16 <= 2 * Stage::kTokensAt,
                "the warps' sums fit two stages");

  __device__ __forceinline__ int ChunksOf(int step) const {
    return min(S::kWarpsK, chunks_ - step * S::kWarpsK);
  }

  __device__ __forceinline__ int Group(int chunk) const {
    return static_cast<int>(static_cast<uint64_t>(chunk) * p_.group_magic >> 32);
  }

  // What depends on no kernel before this one: weights, scales, zero points.
  __device__ __forceinline__ void LoadWeights(int step, int stage) {
    const int chunks = ChunksOf(step), first = begin_ + step * S::kWarpsK;
    const uint32_t base = SharedAddress(stages_ + stage * p_.stage_bytes);
    const uint32_t full = full_ + 8 * stage;
    const int group = Group(first), groups = Group(first + chunks - 1) - group + 1;
    if (lane_ == 0) {
      const int row = (p_.per_channel ? 0 : kPackedTileN * 2) + (kHasZeros ? kPackedTileN / 2 : 0);
      BarrierExpect(full,
                    packed_tiles_ * (chunks * Stage::kChunk + groups * row) + TokenBytes(chunks));
    }
    __syncwarp();
    if (lane_ < packed_tiles_) {
      CopyBulk(base + lane_ * S::kWarpsK * Stage::kChunk, Weights(packed_tile0_ + lane_, first),
               chunks * Stage::kChunk, full);
    }
    const int row = lane_ - 16;  // other lanes than those of the weights
    if (row >= 0 && row < groups) {
      const int64_t from = group + row;
      if (!p_.per_channel) {
        CopyBulk(
            base + Stage::kWeights + row * Stage::kScaleRow,
            static_cast<const uint16_t*>(p_.scales) + from * p_.n + packed_tile0_ * kPackedTileN,
            packed_tiles_ * kPackedTileN * 2, full);
      }
      if constexpr (kHasZeros) {
        CopyBulk(base + Stage::kWeights + Stage::kScales + row * Stage::kZeroRow,
                 p_.zeros + from * (p_.n / 8) + packed_tile0_ * (kPackedTileN / 8),
                 packed_tiles_ * kPackedTileN / 2, full);
      }
    }
  }

  // A row alone is copied as it is, which starts sooner; boxes are always whole.
  __device__ __forceinline__ int TokenBytes(int chunks) const {
    return p_.m == 1 ? chunks * 128 : p_.m * Stage::kTokenBytes;
  }

  __device__ __forceinline__ void LoadTokens(int step, int stage) {
    if (lane_ != 0) return;
    const uint32_t to = SharedAddress(stages_ + stage * p_.stage_bytes + Stage::kTokensAt);
    const int first = begin_ + step * S::kWarpsK;
    if (p_.m == 1) {
      CopyBulk(to, static_cast<const unsigned char*>(p_.a) + static_cast<int64_t>(first) * 128,
               TokenBytes(ChunksOf(step)), full_ + 8 * stage);
    } else {
      cuda::CopyBox(to, map_, full_ + 8 * stage, 0, 0, first);
    }
  }

  __device__ __forceinline__ const unsigned char* Weights(int packed_tile, int chunk) const {
    return static_cast<const unsigned char*>(p_.weights) +
           (static_cast<int64_t>(packed_tile) * (p_.k / 64) + chunk) * Stage::kChunk;
  }

  __device__ __forceinline__ void Load() {
    if (lane_ == 0) cuda::PrefetchMap(map_);
    const int early = min(p_.stages, steps_);
    for (int step = 0; step < early; ++step) LoadWeights(step, step);
    WaitForPrevious();
    for (int step = 0; step < early; ++step) LoadTokens(step, step);
    int stage = 0, parity = 0;
    const int let = max(steps_ - p_.last_steps, early);
    for (int step = early; step < steps_; ++step) {
      if (step == let) LetNextStart();
      BarrierWait(empty_ + 8 * stage, parity);
      LoadWeights(step, stage);
      LoadTokens(step, stage);
      if (++stage == p_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    if (let >= steps_) LetNextStart();
  }

  __device__ __forceinline__ void Multiply() {
    const int packed_tile = warp_ % S::kWarpsN * S::kMmaTiles / 4, chunk = warp_ / S::kWarpsN;
    first_mma_tile_ = warp_ % S::kWarpsN * S::kMmaTiles % 4;
#pragma unroll
    for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total_[i][j][e] = 0;
      }
    }
    int stage = 0, parity = 0;
    for (int step = 0; step < steps_; ++step) {
      BarrierWait(full_ + 8 * stage, parity);
      if (packed_tile < packed_tiles_ && chunk < ChunksOf(step)) {
        const int first = begin_ + step * S::kWarpsK;
        const int row = Group(first + chunk) - Group(first);
        MultiplyChunk(stages_ + stage * p_.stage_bytes, packed_tile, chunk, row);
      }
      __syncwarp();
      if (lane_ == 0) BarrierArrive(empty_ + 8 * stage);
      if (++stage == p_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

  __device__ __forceinline__ void MultiplyChunk(const unsigned char* base, int packed_tile,
                                                int chunk, int row) {
    const unsigned char* const weights = base + (packed_tile * S::kWarpsK + chunk) * Stage::kChunk;
    const unsigned char* const tokens = base + Stage::kTokensAt;
    uint32_t zero[S::kMmaTiles][2];
    if constexpr (kHasZeros) {
      LoadZeros<T>(zero,
                   base + Stage::kWeights + Stage::kScales + row * Stage::kZeroRow +
                       packed_tile * (kPackedTileN / 2) + lane_ / 4 * 4,
                   first_mma_tile_);
    }
    const unsigned char* const scales =
        base + Stage::kWeights + row * Stage::kScaleRow +
        (packed_tile * kPackedTileN + lane_ / 4 * 8 + first_mma_tile_ * 2) * 2;
    uint32_t pairs[S::kMmaTiles];
    LoadScalePairs(pairs, scales);
    float sum[S::kMmaTiles][S::kTokenTiles][4];
#pragma unroll
    for (int slice = 0; slice < 4; ++slice) {
      uint32_t b[S::kTokenTiles][2];
      LoadFragments(b, tokens, chunk, slice);
      uint32_t words[S::kMmaTiles * Bits(kType) / 4];
      LoadWords<kType, S::kMmaTiles>(words, weights + slice * kPackedTileBytes, lane_,
                                     first_mma_tile_);
#pragma unroll
      for (int i = 0; i < S::kMmaTiles; ++i) {
        uint32_t a[4];
        Dequantize<T, kType>(a, words, i, zero[i]);
#pragma unroll
        for (int j = 0; j < S::kTokenTiles; ++j) {
          if (slice == 0) {
            const float none[4] = {0, 0, 0, 0};
            T::Mma(sum[i][j], a, b[j], none);
          } else {
            T::Mma(sum[i][j], a, b[j], sum[i][j]);
          }
        }
      }
    }
    AddScaled<T, kType>(total_, sum, pairs, p_.per_channel != 0);
  }

  // The fragments of all tokens for the 16 of K number `slice` of a chunk. Tokens that there are
  // not repeat the last: their columns of the product are not written.
  __device__ __forceinline__ void LoadFragments(uint32_t (&b)[S::kTokenTiles][2],
                                                const unsigned char* tokens, int chunk,
                                                int slice) const {
    const int piece = 2 * slice + lane_ / 8 % 2;
    const auto from = [&](int token) {
      const int row = chunk * p_.m + min(token, p_.m - 1);
      return tokens + row * 128 + (p_.m == 1 ? piece : piece ^ row % 8) * 16;
    };
    if constexpr (S::kTokenTiles == 1) {
      LoadMatrix2(b[0], from(lane_ % 8));
    } else {
      uint32_t four[4];
      LoadMatrix4(four, from(lane_ / 16 * 8 + lane_ % 8));
      b[0][0] = four[0];
      b[0][1] = four[1];
      b[1][0] = four[2];
      b[1][1] = four[3];
    }
  }

  // Adds up the warps, then the cluster's blocks, each of which writes its part of the tile.
  __device__ __forceinline__ void Epilogue() {
    constexpr int kAll = S::kAllFragments;
    float4* const sums = reinterpret_cast<float4*>(stages_);
    const bool adds = warp_ < S::kWarps;
    if (adds) {
      SyncSome<S::kWarps * kLanes>();  // all have done with the stages
#pragma unroll
      for (int f = 0; f < S::kFragments; ++f) {
        const float (&s)[4] = total_[f / S::kTokenTiles][f % S::kTokenTiles];
        sums[(warp_ * S::kFragments + f) * kLanes + lane_] = make_float4(s[0], s[1], s[2], s[3]);
      }
      SyncSome<S::kWarps * kLanes>();
    }
    if (cluster_ > 1) {
      __syncwarp();
      ClusterWait();  // all have started
    }
    const int each = kAll / cluster_;  // fragments that a block writes
    float4 sum = make_float4(0, 0, 0, 0);
    if (adds) {
      const uint32_t received = SharedAddress(cluster_sums_) + rank_ * each * kLanes * 16;
      for (int f = warp_; f < kAll; f += S::kWarps) {
        sum = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < S::kWarpsK; ++w) {
          const float4 one = sums[(w * kAll + f) * kLanes + lane_];
          sum.x += one.x;
          sum.y += one.y;
          sum.z += one.z;
          sum.w += one.w;
        }
        if (cluster_ == 1) {
          if (f == warp_) WaitForPrevious();
          Write(f, sum);
        } else {
          ClusterStore(ClusterAddress(received + (f % each * kLanes + lane_) * 16, f / each), sum);
        }
      }
    }
    if (cluster_ == 1) return;
    __syncwarp();
    ClusterArrive();
    ClusterWait();
    if (!adds) return;
    WaitForPrevious();
    const float4* const received = reinterpret_cast<const float4*>(cluster_sums_);
    for (int f = warp_; f < each; f += S::kWarps) {
      sum = make_float4(0, 0, 0, 0);
      for (int from = 0; from < cluster_; ++from) {
        const float4 one = received[(from * each + f) * kLanes + lane_];
        sum.x += one.x;
        sum.y += one.y;
        sum.z += one.z;
        sum.w += one.w;
      }
      Write(rank_ * each + f, sum);
    }
  }

  // Scale per channel, bias, rounding; neighbouring columns meet in one register.
  __device__ __forceinline__ void Write(int fragment, const float4& sum) const {
    const int packed_tile = fragment / (4 * S::kTokenTiles), part = fragment % (4 * S::kTokenTiles);
    if (packed_tile >= packed_tiles_) return;
    const int n0 = (packed_tile0_ + packed_tile) * kPackedTileN + part / S::kTokenTiles * 16;
    const auto* const bias = static_cast<const uint16_t*>(p_.bias);
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int column = n0 + 8 * high + lane_ / 4, position = ChannelPosition(column);
      const float scale =
          p_.per_channel ? Scale<T, kType>(static_cast<const uint16_t*>(p_.scales)[position]) : 1.f;
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

  const SmallMParams& p_;
  const CUtensorMap* const map_;  // of the tokens: 64 of K, rows, chunks of K
  unsigned char* const stages_;
  unsigned char* const cluster_sums_;
  const uint32_t full_, empty_;  // barriers: a stage has arrived, a stage may be loaded
  const int lane_, warp_, cluster_, rank_;
  int packed_tile0_, packed_tiles_;  // columns of this block, in packed tiles
  int begin_, chunks_, steps_;       // and its share of K, in chunks of 64
  int first_mma_tile_;               // this warp's first of the four in a packed tile
  float total_[S::kMmaTiles][S::kTokenTiles][4];
};

template <class T, WeightType kType, class S>
__global__ void __launch_bounds__(S::kThreads, 2)
    SmallMKernel(const __grid_constant__ SmallMParams params,
                 const __grid_constant__ CUtensorMap tokens) {
  extern __shared__ __align__(1024) unsigned char vk_small_m[];
  SmallMBlock<T, kType, S>(params, &tokens, vk_small_m).Run();
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_SMALL_M_KERNEL_CUH_
