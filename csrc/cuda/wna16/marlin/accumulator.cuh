// The sums of a warp of Marlin's kernel: dequantized weights times tokens, on tensor cores.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_ACCUMULATOR_CUH_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_ACCUMULATOR_CUH_

#include "cuda/ptx/cvta.cuh"
#include "cuda/ptx/ldmatrix.cuh"
#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
class MarlinAccumulator {
 public:
  using Stage = MarlinStage<S, kType>;

  __device__ __forceinline__ explicit MarlinAccumulator(const MarlinParams& params)
      : lane(static_cast<int>(threadIdx.x) % kLanes),
        warp_n(static_cast<int>(threadIdx.x) / kLanes % S::kWarpsN),
        warp_k(static_cast<int>(threadIdx.x) / kLanes / S::kWarpsN),
        p_(params),
        packed_tile_(warp_n * S::kMmaTiles / 4),
        first_mma_tile_(warp_n * S::kMmaTiles % 4) {}

  __device__ __forceinline__ void Clear() { SetZero(total); }

  // Adds this warp's 64 of K of one stage.
  __device__ __forceinline__ void MultiplyStage(const Stage& stage) {
    const bool split = !IsFp4(kType) && p_.group == 32;
    const auto& weights = stage.weights[packed_tile_][warp_k];
    float sum[S::kMmaTiles][S::kTokenTiles][4];
    uint32_t adjust[S::kMmaTiles][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (HasZeroPoints(kType)) {
        if (half == 0 || split) LoadZeros<T>(adjust, Zeros(stage, half), first_mma_tile_);
      }
#pragma unroll
      for (int quarter = 0; quarter < 2; ++quarter) {
        const int slice = 2 * half + quarter;
        if constexpr (IsFp4(kType)) {
          constexpr int kSlices = Fp4Group(kType) / kPackedTileK;  // that share scales
          if (slice % kSlices == 0) {
            LoadFp4Scales<T, kType>(adjust, Scales(stage, slice / kSlices), first_mma_tile_);
          }
        }
        uint32_t b[S::kTokenTiles][2];
        LoadFragments(b, stage, slice);
        uint32_t words[S::kMmaTiles * Bits(kType) / 4];
        LoadWords<kType, S::kMmaTiles>(words, weights[slice], lane, first_mma_tile_);
#pragma unroll
        for (int i = 0; i < S::kMmaTiles; ++i) {
          uint32_t a[4];
          Dequantize<T, kType>(a, words, i, adjust[i]);
#pragma unroll
          for (int j = 0; j < S::kTokenTiles; ++j) {
            if constexpr (IsFp4(kType)) {
              Mma<T>(total[i][j], a, b[j], total[i][j]);
            } else if (slice == 0) {
              const float none[4] = {0, 0, 0, 0};
              Mma<T>(sum[i][j], a, b[j], none);
            } else {
              Mma<T>(sum[i][j], a, b[j], sum[i][j]);
            }
          }
        }
      }
      if constexpr (!IsFp4(kType)) {
        if (half == 1) {
          AddGroup(sum, Scales(stage, split ? 1 : 0));
        } else if (split) {
          AddGroup(sum, Scales(stage, 0));
          SetZero(sum);
        }
      }
    }
  }

  // Fragment number `f` of the sums.
  __device__ __forceinline__ float4 Sum(int f) const {
    const float (&s)[4] = total[f / S::kTokenTiles][f % S::kTokenTiles];
    return make_float4(s[0], s[1], s[2], s[3]);
  }
  __device__ __forceinline__ void Add(int f, const float4& sum) {
    float (&s)[4] = total[f / S::kTokenTiles][f % S::kTokenTiles];
    s[0] += sum.x;
    s[1] += sum.y;
    s[2] += sum.z;
    s[3] += sum.w;
  }

  const int lane, warp_n, warp_k;
  float total[S::kMmaTiles][S::kTokenTiles][4];

 private:
  static __device__ __forceinline__ void SetZero(float (&sums)[S::kMmaTiles][S::kTokenTiles][4]) {
#pragma unroll
    for (int i = 0; i < S::kMmaTiles; ++i) {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = 0;
      }
    }
  }

  // Of this lane's rows: from the warp's first tile on, those of FP4 from the packed tile's.
  __device__ __forceinline__ const ScaleElement<kType>* Scales(const Stage& stage, int row) const {
    return &stage.scales[MarlinScaleRows(kType) * warp_k + row]
                        [packed_tile_ * kPackedTileN + lane / 4 * 8 +
                         (IsFp4(kType) ? 0 : first_mma_tile_ * 2)];
  }
  __device__ __forceinline__ const uint32_t* Zeros(const Stage& stage, int half) const {
    return &stage.zeros[2 * warp_k + half][packed_tile_ * (kPackedTileN / 8) + lane / 4];
  }

  // The fragments of all tokens for the 16 of K number `slice`.
  __device__ __forceinline__ void LoadFragments(uint32_t (&b)[S::kTokenTiles][2],
                                                const Stage& stage, int slice) const {
    const auto* const tokens = reinterpret_cast<const unsigned char*>(stage.tokens[warp_k]);
    const int part = (2 * slice + lane / 8 % 2) ^ (lane & 7);
    if constexpr (S::kTokenTiles == 1) {
      ptx::ldmatrix_x2(b[0], ptx::cvta_to_shared(tokens + (lane & 7) * 128 + part * 16));
    } else {
#pragma unroll
      for (int j = 0; j < S::kTokenTiles; j += 2) {
        uint32_t four[4];
        ptx::ldmatrix_x4(four, ptx::cvta_to_shared(
                                   tokens + ((j + lane / 16) * 8 + (lane & 7)) * 128 + part * 16));
        b[j][0] = four[0];
        b[j][1] = four[1];
        b[j + 1][0] = four[2];
        b[j + 1][1] = four[3];
      }
    }
  }

  __device__ __forceinline__ void AddGroup(const float (&sum)[S::kMmaTiles][S::kTokenTiles][4],
                                           const uint16_t* scales) {
    uint32_t pairs[S::kMmaTiles] = {};
    if (!p_.per_channel) LoadScalePairs(pairs, scales);
    AddScaled<T, kType>(total, sum, pairs, p_.per_channel != 0);
  }

  const MarlinParams& p_;
  const int packed_tile_, first_mma_tile_;  // of the block's columns, where this warp's begin
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_ACCUMULATOR_CUH_
