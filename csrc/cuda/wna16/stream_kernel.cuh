// c = a @ dequantized(weights) + bias for up to 16 tokens on GPUs of compute capability 9.0:
// weights stream through shared memory in bulk copies, as deep as it is large.
//
// A block holds 64 or more columns for all of K, or a cluster's share of K; the sums of a cluster
// meet in shared memory, so that nothing but c is written. The kernel takes half a multiprocessor:
// where launches follow one another, the next one's blocks are there from the start and load their
// first weights, which depend on nothing before, while this one still works. Numbers are those of
// marlin_kernel.cuh: exact weights, float32 sums per 64 of K, scaled in float32.
#ifndef VLLM_KERNELS_CUDA_WNA16_STREAM_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_STREAM_KERNEL_CUH_

#include "cuda/wna16/bulk.cuh"
#include "cuda/wna16/dequant.cuh"
#include "cuda/wna16/stream_params.h"

namespace vk::wna16 {

template <class T, WeightType kType, class S>
class StreamBlock {
 public:
  __device__ __forceinline__ StreamBlock(const StreamParams& params, unsigned char* shared)
      : p_(params),
        stages_(shared),
        received_(shared + params.stages * params.stage_bytes),
        full_(SharedAddress(received_ + S::kReceivedBytes)),
        empty_(full_ + 8 * kMaxStreamStages),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        cluster_(ClusterSize()),
        rank_(ClusterRank()) {
    unit0_ = static_cast<int>(blockIdx.x) / cluster_ * S::kUnits;
    units_ = min(S::kUnits, p_.n / kUnitN - unit0_);
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
    Finish();
  }

 private:
  using Stage = StreamStage<S, kType>;
  static constexpr bool kHasZeros = kType == WeightType::kU4;
  static constexpr int kUnitBytes = UnitWords(Bits(kType)) * 4;
  static_assert(S::kWarps * S::kFragments * kLanes * 16 <= 2 * Stage::kTokensAt,
                "the warps' sums fit two stages");

  __device__ __forceinline__ int ChunksOf(int step) const {
    return min(S::kWarpsK, chunks_ - step * S::kWarpsK);
  }

  // What depends on no kernel before this one: weights, scales, zero points.
  __device__ __forceinline__ void LoadConstants(int step, int stage) {
    const int chunks = ChunksOf(step), first = begin_ + step * S::kWarpsK;
    const uint32_t base = SharedAddress(stages_ + stage * p_.stage_bytes);
    const uint32_t full = full_ + 8 * stage;
    if (lane_ == 0) {
      int bytes = units_ * chunks * (Stage::kChunk + (kHasZeros ? kUnitN / 2 : 0));
      if (!p_.per_channel) bytes += units_ * chunks * kUnitN * 2;
      BarrierExpect(full, bytes + p_.m * chunks * 128);
    }
    __syncwarp();
    if (lane_ < units_) {
      CopyBulk(base + lane_ * S::kWarpsK * Stage::kChunk, Weights(unit0_ + lane_, first),
               chunks * Stage::kChunk, full);
    }
    const int row = lane_ - 16;  // other lanes than those of the weights, where there are enough
    if (row >= 0 && row < chunks) {
      const int64_t group =
          static_cast<int64_t>(static_cast<uint64_t>(first + row) * p_.group_magic >> 32);
      if (!p_.per_channel) {
        CopyBulk(base + Stage::kWeights + row * Stage::kScaleRow,
                 static_cast<const uint16_t*>(p_.scales) + group * p_.n + unit0_ * kUnitN,
                 units_ * kUnitN * 2, full);
      }
      if constexpr (kHasZeros) {
        CopyBulk(base + Stage::kWeights + Stage::kScales + row * Stage::kZeroRow,
                 p_.zeros + group * (p_.n / 8) + unit0_ * (kUnitN / 8), units_ * kUnitN / 2, full);
      }
    }
  }

  __device__ __forceinline__ void LoadTokens(int step, int stage) {
    if (lane_ >= p_.m) return;
    const int64_t k = static_cast<int64_t>(begin_ + step * S::kWarpsK) * 64;
    CopyBulk(
        SharedAddress(stages_ + stage * p_.stage_bytes + Stage::kTokensAt + lane_ * Stage::kPitch),
        static_cast<const uint16_t*>(p_.a) + lane_ * p_.lda + k, ChunksOf(step) * 128,
        full_ + 8 * stage);
  }

  __device__ __forceinline__ const unsigned char* Weights(int unit, int chunk) const {
    return static_cast<const unsigned char*>(p_.weights) +
           (static_cast<int64_t>(unit) * (p_.k / 64) + chunk) * Stage::kChunk;
  }

  __device__ __forceinline__ void Load() {
    const int early = min(p_.stages, steps_);
    for (int step = 0; step < early; ++step) LoadConstants(step, step);
    WaitForPrevious();
    // Not before: the next kernel's blocks then find one place on every multiprocessor, which the
    // kernel before this one has left, and do not pile up.
    LetNextStart();
    for (int step = 0; step < early; ++step) LoadTokens(step, step);
    int stage = 0, parity = 0;
    for (int step = early; step < steps_; ++step) {
      BarrierWait(empty_ + 8 * stage, parity);
      LoadConstants(step, stage);
      LoadTokens(step, stage);
      if (++stage == p_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

  __device__ __forceinline__ void Multiply() {
    const int unit = warp_ % S::kWarpsN * S::kTiles / 4, chunk = warp_ / S::kWarpsN;
    first_tile_ = warp_ % S::kWarpsN * S::kTiles % 4;
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total_[i][j][e] = 0;
      }
    }
    int stage = 0, parity = 0;
    for (int step = 0; step < steps_; ++step) {
      BarrierWait(full_ + 8 * stage, parity);
      if (unit < units_ && chunk < ChunksOf(step)) {
        MultiplyChunk(stages_ + stage * p_.stage_bytes, unit, chunk);
      }
      __syncwarp();
      if (lane_ == 0) BarrierArrive(empty_ + 8 * stage);
      if (++stage == p_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

  __device__ __forceinline__ void MultiplyChunk(const unsigned char* base, int unit, int chunk) {
    const unsigned char* const weights = base + (unit * S::kWarpsK + chunk) * Stage::kChunk;
    const unsigned char* const tokens = base + Stage::kTokensAt + chunk * 128;
    uint32_t zero[S::kTiles][2];
    if constexpr (kHasZeros) {
      uint32_t word = *reinterpret_cast<const uint32_t*>(base + Stage::kWeights + Stage::kScales +
                                                         chunk * Stage::kZeroRow +
                                                         unit * (kUnitN / 2) + lane_ / 4 * 4) >>
                      (4 * first_tile_);
#pragma unroll
      for (int i = 0; i < S::kTiles; ++i, word >>= 4) {
        const uint32_t pair = AndOr<0x000f000f, Magic<T>::kBase>(word);
        zero[i][0] = __byte_perm(pair, pair, 0x1010);
        zero[i][1] = __byte_perm(pair, pair, 0x3232);
      }
    }
    float sum[S::kTiles][S::kTokenTiles][4];
#pragma unroll
    for (int slice = 0; slice < 4; ++slice) {
      uint32_t b[S::kTokenTiles][2];
      LoadFragments(b, tokens, slice);
      uint32_t words[S::kTiles * Bits(kType) / 4];
      LoadWords(words, weights + slice * kUnitBytes);
#pragma unroll
      for (int i = 0; i < S::kTiles; ++i) {
        uint32_t a[4];
        if constexpr (kType == WeightType::kU4B8) {
          Dequant4<T>(a, words[i], Magic<T>::kZero8, Magic<T>::kZero8);
        } else if constexpr (kType == WeightType::kU4) {
          Dequant4<T>(a, words[i], zero[i][0], zero[i][1]);
        } else {
          Dequant8<T, kType>(a, words[2 * i], words[2 * i + 1]);
        }
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
    if (p_.per_channel) {
#pragma unroll
      for (int i = 0; i < S::kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) total_[i][j][e] += sum[i][j][e];
        }
      }
      return;
    }
    const unsigned char* const scales = base + Stage::kWeights + chunk * Stage::kScaleRow +
                                        (unit * kUnitN + lane_ / 4 * 8 + first_tile_ * 2) * 2;
    uint32_t pairs[S::kTiles];
    if constexpr (S::kTiles == 4) {
      Unpack(pairs, 0, *reinterpret_cast<const uint4*>(scales));
    } else {
      const uint2 two = *reinterpret_cast<const uint2*>(scales);
      pairs[0] = two.x;
      pairs[1] = two.y;
    }
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) {
      const float low = Scale(static_cast<uint16_t>(pairs[i] & 0xffff));
      const float high = Scale(static_cast<uint16_t>(pairs[i] >> 16));
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
        total_[i][j][0] += low * sum[i][j][0];
        total_[i][j][1] += low * sum[i][j][1];
        total_[i][j][2] += high * sum[i][j][2];
        total_[i][j][3] += high * sum[i][j][3];
      }
    }
  }

  // The fragments of all tokens for the 16 of K number `slice`. Tokens that there are not repeat
  // the last: their columns of the product are not written.
  __device__ __forceinline__ void LoadFragments(uint32_t (&b)[S::kTokenTiles][2],
                                                const unsigned char* tokens, int slice) const {
    const unsigned char* const from = tokens + (2 * slice + lane_ / 8 % 2) * 16;
    if constexpr (S::kTokenTiles == 1) {
      LoadMatrix2(b[0], from + min(lane_ & 7, p_.m - 1) * Stage::kPitch);
    } else {
      uint32_t four[4];
      LoadMatrix4(four, from + min(lane_ / 16 * 8 + (lane_ & 7), p_.m - 1) * Stage::kPitch);
      b[0][0] = four[0];
      b[0][1] = four[1];
      b[1][0] = four[2];
      b[1][1] = four[3];
    }
  }

  __device__ __forceinline__ void LoadWords(uint32_t (&words)[S::kTiles * Bits(kType) / 4],
                                            const unsigned char* unit) const {
    if constexpr (Bits(kType) == 4 && S::kTiles == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(unit + lane_ * 16 + first_tile_ * 4);
      words[0] = two.x;
      words[1] = two.y;
    } else {
      const unsigned char* const from =
          unit + (Bits(kType) == 8 ? first_tile_ / 2 * 512 : 0) + lane_ * 16;
#pragma unroll
      for (int i = 0; i < S::kTiles * Bits(kType) / 16; ++i) {
        Unpack(words, 4 * i, *reinterpret_cast<const uint4*>(from + i * 512));
      }
    }
  }

  template <int kWords>
  static __device__ __forceinline__ void Unpack(uint32_t (&words)[kWords], int at, uint4 vector) {
    words[at] = vector.x;
    words[at + 1] = vector.y;
    words[at + 2] = vector.z;
    words[at + 3] = vector.w;
  }

  static __device__ __forceinline__ float Scale(uint16_t bits) {
    return T::ToFloat(bits) * (kType == WeightType::kFp8 ? Magic<T>::kFp8Unfix : 1.f);
  }

  // Adds up the warps, then the cluster's blocks, each of which writes its part of the tile.
  __device__ __forceinline__ void Finish() {
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
      const uint32_t received = SharedAddress(received_) + rank_ * each * kLanes * 16;
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
    const float4* const received = reinterpret_cast<const float4*>(received_);
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
    const int unit = fragment / (4 * S::kTokenTiles), part = fragment % (4 * S::kTokenTiles);
    if (unit >= units_) return;
    const int n0 = (unit0_ + unit) * kUnitN + part / S::kTokenTiles * 16;
    const auto* const bias = static_cast<const uint16_t*>(p_.bias);
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int column = n0 + 8 * high + lane_ / 4, position = ChannelPosition(column);
      const float scale =
          p_.per_channel ? Scale(static_cast<const uint16_t*>(p_.scales)[position]) : 1.f;
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

  const StreamParams& p_;
  unsigned char* const stages_;
  unsigned char* const received_;
  const uint32_t full_, empty_;  // barriers: a stage has arrived, a stage may be loaded
  const int lane_, warp_, cluster_, rank_;
  int unit0_, units_;           // columns of this block, in units
  int begin_, chunks_, steps_;  // and its share of K, in chunks of 64
  int first_tile_;              // of the unit's four, from which on this warp takes its own
  float total_[S::kTiles][S::kTokenTiles][4];
};

template <class T, WeightType kType, class S>
__global__ void __launch_bounds__(S::kThreads, 2)
    StreamKernel(const __grid_constant__ StreamParams params) {
  extern __shared__ __align__(128) unsigned char vk_stream[];
  StreamBlock<T, kType, S>(params, vk_stream).Run();
}

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_STREAM_KERNEL_CUH_
