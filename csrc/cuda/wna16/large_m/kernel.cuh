// c = a @ dequantized(weights) + bias for many tokens on GPUs of compute capability 9.0: weights
// are the operand in registers of warpgroup products, made there while the product before runs.
//
// The columns of c are the products' rows: a packed tile holds the fragments of four tiles of 16
// columns, of which a warp takes one or two. Blocks of 128 tokens scale weights in the 16-bit type,
// so round them once, as dequantized ones are; those of 64 keep them exact. Where tiles are few, a
// cluster shares K and adds its sums up in shared memory, always in the order of its ranks.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_KERNEL_CUH_

#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/large_m/params.h"
#include "cuda/wna16/large_m/wgmma.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
class LargeMBlock {
 public:
  __device__ __forceinline__ LargeMBlock(const LargeMParams& params, const CUtensorMap* tokens,
                                         unsigned char* shared)
      : p_(params),
        map_(tokens),
        stages_(shared + (1024 - (SharedAddress(shared) & 1023) & 1023)),
        full_(SharedAddress(stages_ + params.stages * Stage::kBytes)),
        empty_(full_ + 8 * kLargeMMaxStages),
        lane_(static_cast<int>(threadIdx.x) % kLanes),
        warp_(static_cast<int>(threadIdx.x) / kLanes % 4),
        group_(static_cast<int>(threadIdx.x) / 128 - 1),
        cluster_(ClusterSize()),
        rank_(ClusterRank()) {
    // Neighbouring blocks share tokens: weights are read from memory once, tokens from L2.
    const int tiles = (p_.m + S::kTokens - 1) / S::kTokens;
    const int tile = static_cast<int>(blockIdx.x) / cluster_;
    token0_ = tile % tiles * S::kTokens;
    packed_tile0_ = tile / tiles * S::kPackedTiles;
    packed_tiles_ = min(S::kPackedTiles, p_.n / kPackedTileN - packed_tile0_);
    begin_ = rank_ * p_.chunks;
    chunks_ = max(min(p_.chunks, p_.k / 64 - begin_), 0);
    constexpr int kUnitWarps = 4 / S::kMmaTiles;
    packed_tile_ = S::kMmaTiles * group_ + warp_ / kUnitWarps;
    first_mma_tile_ = warp_ % kUnitWarps * S::kMmaTiles;
  }

  __device__ __forceinline__ void Init() {
    LetNextStart();
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < p_.stages; ++stage) {
        BarrierInit(full_ + 8 * stage, 1);
        BarrierInit(empty_ + 8 * stage, 8);  // the warps that multiply
      }
      BarrierInitFence();
    }
    __syncthreads();
  }

  // One warp.
  __device__ __forceinline__ void Load() {
    const int early = min(p_.stages, chunks_);
    for (int step = 0; step < early; ++step) LoadWeights(step, step);
    WaitForPrevious();
    if (lane_ == 0) {
      for (int step = 0; step < early; ++step) LoadTokens(step, step);
    }
    __syncwarp();
    int stage = 0, parity = 0;
    for (int step = early; step < chunks_; ++step) {
      BarrierWait(empty_ + 8 * stage, parity);
      LoadWeights(step, stage);
      if (lane_ == 0) LoadTokens(step, stage);
      __syncwarp();
      if (++stage == p_.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }

  // A warpgroup; leaves the sums in `total`.
  __device__ __forceinline__ void Multiply(float (&total)[S::kMmaTiles][S::kSums]) {
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
      for (int i = 0; i < S::kSums; ++i) total[t][i] = 0;
    }
    Cursor at;
    int step = 0;
    for (; step + S::kSteps <= chunks_; step += S::kSteps) Steps<S::kSteps>(at, total);
    if (S::kSteps > 1 && step < chunks_) Steps<1>(at, total);
  }

  // Both warpgroups. Adds the cluster's sums up; scale per channel, bias, rounding, and rows of c
  // through shared memory, so that they are written in pieces.
  __device__ __forceinline__ void Epilogue(float (&total)[S::kMmaTiles][S::kSums]) {
    constexpr int kBlocks = S::kTokens / 8;  // of eight tokens
    const int each = kBlocks / cluster_;
    float factor[S::kMmaTiles][2], offset[S::kMmaTiles][2];
    LoadColumns(factor, offset);
    SyncSome<256>();  // both have done with the stages
    if (cluster_ == 1) {
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
        for (int j = 0; j < kBlocks; ++j) {
          StageSums(stages_, t, j, factor[t], offset[t], total[t][4 * j], total[t][4 * j + 1],
                    total[t][4 * j + 2], total[t][4 * j + 3]);
        }
      }
      SyncSome<256>();
      WaitForPrevious();
      WriteRows(stages_, token0_, S::kTokens);
      return;
    }
    ClusterArrive();
    ClusterWait();  // all have done with theirs
    const int thread = static_cast<int>(threadIdx.x) - 128;
    const uint32_t sums = SharedAddress(stages_);
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        const int at = ((rank_ * S::kMmaTiles + t) * each + j % each) * 256 + thread;
        ClusterStore(ClusterAddress(sums + at * 16, j / each),
                     make_float4(total[t][4 * j], total[t][4 * j + 1], total[t][4 * j + 2],
                                 total[t][4 * j + 3]));
      }
    }
    ClusterArrive();
    ClusterWait();
    unsigned char* const rows = stages_ + S::kMmaTiles * kBlocks * 256 * 16;
    const float4* const received = reinterpret_cast<const float4*>(stages_);
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      for (int j = 0; j < each; ++j) {
        float4 sum = make_float4(0, 0, 0, 0);
        for (int from = 0; from < cluster_; ++from) {
          const float4 one = received[((from * S::kMmaTiles + t) * each + j) * 256 + thread];
          sum.x += one.x;
          sum.y += one.y;
          sum.z += one.z;
          sum.w += one.w;
        }
        StageSums(rows, t, j, factor[t], offset[t], sum.x, sum.y, sum.z, sum.w);
      }
    }
    SyncSome<256>();
    WaitForPrevious();
    WriteRows(rows, token0_ + rank_ * each * 8, each * 8);
  }

  // What the loader does meanwhile.
  __device__ __forceinline__ void EpilogueOfProducer() const {
    if (cluster_ == 1) return;
    ClusterArrive();
    ClusterWait();
    ClusterArrive();
    ClusterWait();
  }

 private:
  using Stage = LargeMStage<S, kType>;
  static constexpr bool kHasZeros = kType == WeightType::kU4;
  static constexpr int kPackedTileBytes = PackedTileWords(Bits(kType)) * 4;
  static constexpr int kPitch = S::kColumns * 2 + 16;  // of a row of c in shared memory

  // Pairs of scales, and of base + zero point, of the rows of each tile and the eighth after it.
  struct Group {
    uint32_t scale[S::kMmaTiles][2];
    uint32_t zero[S::kMmaTiles][2];
  };

  // Of the stages, which comes next.
  struct Cursor {
    int stage = 0, parity = 0;
  };

  // One slice's fragments are made while the products of those before run; the other warpgroup's
  // fill the gap at the end.
  template <int kSteps>
  __device__ __forceinline__ void Steps(Cursor& at, float (&total)[S::kMmaTiles][S::kSums]) const {
    constexpr int kSets = 4;  // of fragments
    uint32_t a[kSets][S::kMmaTiles][4];
    float sum[S::kMmaTiles][S::kExact ? S::kSums : 1];
    Group group;
    int stages[kSteps];
    if constexpr (!S::kExact) {
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) Pin(total[t]);
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      BarrierWait(full_ + 8 * at.stage, at.parity);
      const unsigned char* const base = stages_ + at.stage * Stage::kBytes;
      const uint32_t tokens = SharedAddress(base);
      stages[step] = at.stage;
      LoadGroup(group, base);
#pragma unroll
      for (int slice = 0; slice < 4; ++slice) {
        // The product that reads this set has ended.
        if (step > 0) WgmmaWait<kSets - 1>();
        Dequantize(a[slice], base, slice, group);
        WgmmaFence();
#pragma unroll
        for (int t = 0; t < S::kMmaTiles; ++t) {
          const uint64_t desc = KMajor(tokens + slice * 32);
          if constexpr (S::kExact) {
            Wgmma<T>(sum[t], a[slice][t], desc, slice);
          } else {
            Wgmma<T>(total[t], a[slice][t], desc, 1);
          }
        }
        WgmmaCommit();
      }
      if (++at.stage == p_.stages) {
        at.stage = 0;
        at.parity ^= 1;
      }
    }
    WgmmaWait<0>();
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      if constexpr (S::kExact) {
        Pin(sum[t]);
        const float low = ScaleOf(group.scale[t][0]), high = ScaleOf(group.scale[t][1]);
#pragma unroll
        for (int i = 0; i < S::kSums; ++i) total[t][i] += (i % 4 < 2 ? low : high) * sum[t][i];
      } else {
        Pin(total[t]);
      }
    }
    __syncwarp();  // every lane has read its weights and scales
    if (lane_ == 0) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) BarrierArrive(empty_ + 8 * stages[step]);
    }
  }

  __device__ __forceinline__ void LoadWeights(int step, int stage) {
    const int chunk = begin_ + step;
    const uint32_t base = SharedAddress(stages_ + stage * Stage::kBytes), full = full_ + 8 * stage;
    if (lane_ == 0) {
      int bytes =
          Stage::kTokenBytes + packed_tiles_ * (Stage::kChunk + (kHasZeros ? kPackedTileN / 2 : 0));
      if (!p_.per_channel) bytes += packed_tiles_ * kPackedTileN * 2;
      BarrierExpect(full, bytes);
    }
    __syncwarp();
    const int64_t group = static_cast<int64_t>(static_cast<uint64_t>(chunk) * p_.group_magic >> 32);
    if (lane_ < packed_tiles_) {
      CopyBulk(
          base + Stage::kWeightsAt + lane_ * Stage::kChunk,
          static_cast<const unsigned char*>(p_.weights) +
              (static_cast<int64_t>(packed_tile0_ + lane_) * (p_.k / 64) + chunk) * Stage::kChunk,
          Stage::kChunk, full);
    } else if (lane_ == 8 && !p_.per_channel) {
      CopyBulk(
          base + Stage::kScalesAt,
          static_cast<const uint16_t*>(p_.scales) + group * p_.n + packed_tile0_ * kPackedTileN,
          packed_tiles_ * kPackedTileN * 2, full);
    } else if (kHasZeros && lane_ == 9) {
      CopyBulk(base + Stage::kZerosAt,
               p_.zeros + group * (p_.n / 8) + packed_tile0_ * (kPackedTileN / 8),
               packed_tiles_ * kPackedTileN / 2, full);
    }
  }

  __device__ __forceinline__ void LoadTokens(int step, int stage) {
    CopyBox(SharedAddress(stages_ + stage * Stage::kBytes), map_, full_ + 8 * stage,
            (begin_ + step) * 64, token0_);
  }

  __device__ __forceinline__ void LoadGroup(Group& group, const unsigned char* base) const {
    if (!p_.per_channel) {
      const unsigned char* const from =
          base + Stage::kScalesAt +
          (packed_tile_ * kPackedTileN + lane_ / 4 * 8 + 2 * first_mma_tile_) * 2;
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) {
        uint32_t pair = reinterpret_cast<const uint32_t*>(from)[t];
        if constexpr (!S::kExact) pair = Unfixed(pair);
        group.scale[t][0] = __byte_perm(pair, pair, 0x1010);
        group.scale[t][1] = __byte_perm(pair, pair, 0x3232);
      }
    }
    if constexpr (kHasZeros) {
      uint32_t word =
          *reinterpret_cast<const uint32_t*>(base + Stage::kZerosAt +
                                             packed_tile_ * (kPackedTileN / 2) + lane_ / 4 * 4) >>
          (4 * first_mma_tile_);
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t, word >>= 4) {
        const uint32_t pair = AndOr<0x000f000f, Magic<T>::kBase>(word);
        group.zero[t][0] = __byte_perm(pair, pair, 0x1010);
        group.zero[t][1] = __byte_perm(pair, pair, 0x3232);
      }
    }
  }

  // Two scales without the factor that the engine gives those of FP8 weights.
  static __device__ __forceinline__ uint32_t Unfixed(uint32_t pair) {
    if constexpr (kType != WeightType::kFp8) return pair;
    const uint32_t low = T::FromFloat(Scale<T, kType>(static_cast<uint16_t>(pair & 0xffff)));
    const uint32_t high = T::FromFloat(Scale<T, kType>(static_cast<uint16_t>(pair >> 16)));
    return low | high << 16;
  }

  // The float of a pair of equal scales; exact blocks keep the engine's factor until here.
  __device__ __forceinline__ float ScaleOf(uint32_t pair) const {
    return p_.per_channel ? 1.f : Scale<T, kType>(static_cast<uint16_t>(pair & 0xffff));
  }

  // The fragments of this warp's tiles for the 16 of K number `slice`.
  __device__ __forceinline__ void Dequantize(uint32_t (&a)[S::kMmaTiles][4],
                                             const unsigned char* base, int slice,
                                             const Group& group) const {
    const unsigned char* const packed_tile =
        base + Stage::kWeightsAt + packed_tile_ * Stage::kChunk + slice * kPackedTileBytes;
    constexpr int kWords = Bits(kType) / 4;  // of a tile
    const unsigned char* const from = kWords == 1 ? packed_tile + lane_ * 16 + 4 * first_mma_tile_
                                                  : packed_tile + first_mma_tile_ / 2 * 512 +
                                                        lane_ * 16 + first_mma_tile_ % 2 * 8;
    uint32_t words[S::kMmaTiles * kWords];
    if constexpr (S::kMmaTiles * kWords == 4) {
      const uint4 four = *reinterpret_cast<const uint4*>(from);
      words[0] = four.x;
      words[1] = four.y;
      words[2] = four.z;
      words[3] = four.w;
    } else if constexpr (S::kMmaTiles * kWords == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      words[0] = two.x;
      words[1] = two.y;
    } else {
      words[0] = *reinterpret_cast<const uint32_t*>(from);
    }
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      if constexpr (kType == WeightType::kU4B8) {
        Dequant4<T>(a[t], words[t], Magic<T>::kZero8, Magic<T>::kZero8);
      } else if constexpr (kType == WeightType::kU4) {
        Dequant4<T>(a[t], words[t], group.zero[t][0], group.zero[t][1]);
      } else {
        Dequant8<T, kType>(a[t], words[2 * t], words[2 * t + 1]);
      }
    }
    if constexpr (!S::kExact) {
      if (p_.per_channel) return;
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
        for (int r = 0; r < 4; ++r) a[t][r] = T::Mul2(a[t][r], group.scale[t][r % 2]);
      }
    }
  }

  __device__ __forceinline__ int Column(int t, int high) const {
    return packed_tile_ * kPackedTileN + (first_mma_tile_ + t) * 16 + 8 * high + lane_ / 4;
  }

  __device__ __forceinline__ void LoadColumns(float (&factor)[S::kMmaTiles][2],
                                              float (&offset)[S::kMmaTiles][2]) const {
    const auto* const bias = static_cast<const uint16_t*>(p_.bias);
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
      for (int high = 0; high < 2; ++high) {
        const int column = packed_tile0_ * kPackedTileN + Column(t, high);
        const int position = packed_tile_ < packed_tiles_ ? ChannelPosition(column) : 0;
        factor[t][high] = p_.per_channel
                              ? Scale<T, kType>(static_cast<const uint16_t*>(p_.scales)[position])
                              : 1.f;
        offset[t][high] = bias != nullptr ? T::ToFloat(bias[position]) : 0.f;
      }
    }
  }

  // Sums of tile `t` and the eight tokens number `j` as rows of c.
  __device__ __forceinline__ void StageSums(unsigned char* rows, int t, int j,
                                            const float (&factor)[2], const float (&offset)[2],
                                            float x, float y, float z, float w) const {
    const float values[4] = {x, y, z, w};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = 8 * j + 2 * (lane_ % 4) + e % 2;
      *reinterpret_cast<uint16_t*>(rows + token * kPitch + Column(t, e / 2) * 2) =
          T::FromFloat(values[e] * factor[e / 2] + offset[e / 2]);
    }
  }

  __device__ __forceinline__ void WriteRows(const unsigned char* rows, int first, int count) const {
    constexpr int kParts = S::kColumns / 8;
    for (int i = static_cast<int>(threadIdx.x) - 128; i < count * kParts; i += 256) {
      const int token = i / kParts, part = i % kParts;
      if (first + token >= p_.m || part >= packed_tiles_ * (kPackedTileN / 8)) continue;
      uint16_t* const to = static_cast<uint16_t*>(p_.c) +
                           static_cast<int64_t>(first + token) * p_.n +
                           packed_tile0_ * kPackedTileN + part * 8;
      *reinterpret_cast<uint4*>(to) =
          *reinterpret_cast<const uint4*>(rows + token * kPitch + part * 16);
    }
  }

  const LargeMParams& p_;
  const CUtensorMap* const map_;
  unsigned char* const stages_;
  const uint32_t full_, empty_;
  const int lane_, warp_, group_, cluster_, rank_;
  int token0_, packed_tile0_, packed_tiles_;  // the tile
  int begin_, chunks_;                        // and the share of K
  int packed_tile_, first_mma_tile_;  // this warp's packed tile, and the first of its mma tiles
};

template <class T, WeightType kType, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    LargeMKernel(const __grid_constant__ LargeMParams params,
                 const __grid_constant__ CUtensorMap tokens) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char vk_large_m[];
  LargeMBlock<T, kType, S> block(params, &tokens, vk_large_m);
  block.Init();
  if (threadIdx.x < 128) {
    RegistersFewer<40>();
    if (threadIdx.x < kLanes) block.Load();
    __syncwarp();
    block.EpilogueOfProducer();
  } else {
    RegistersMore<232>();
    float total[S::kMmaTiles][S::kSums];
    block.Multiply(total);
    block.Epilogue(total);
  }
#endif
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_KERNEL_CUH_
