// What a warp of mma kernels does with repacked weights: words to fragments (layout.h), zero
// points, scales.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_FRAGMENTS_CUH_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_FRAGMENTS_CUH_

#include "cuda/wna16/common/dequant.cuh"
#include "cuda/wna16/layout.h"

namespace vk::cuda::wna16 {

template <int kWords>
__device__ __forceinline__ void Unpack(uint32_t (&words)[kWords], int at, uint4 vector) {
  words[at] = vector.x;
  words[at + 1] = vector.y;
  words[at + 2] = vector.z;
  words[at + 3] = vector.w;
}

// This lane's words of kMmaTiles of a packed tile's four, from `first_mma_tile` on.
template <WeightType kType, int kMmaTiles>
__device__ __forceinline__ void LoadWords(uint32_t (&words)[kMmaTiles * Bits(kType) / 4],
                                          const PackedTile<Bits(kType)>& tile, int lane,
                                          int first_mma_tile) {
  if constexpr (Bits(kType) == 4 && kMmaTiles == 4) {
    Unpack(words, 0, *reinterpret_cast<const uint4*>(&tile.words[lane * 4]));
  } else if constexpr (Bits(kType) == 4) {
    const uint2 two = *reinterpret_cast<const uint2*>(&tile.words[lane * 4 + first_mma_tile]);
    words[0] = two.x;
    words[1] = two.y;
  } else {
    const uint32_t* const from = &tile.words[first_mma_tile / 2 * 128 + lane * 4];
#pragma unroll
    for (int i = 0; i < kMmaTiles / 2; ++i) {
      Unpack(words, 4 * i, *reinterpret_cast<const uint4*>(from + i * 128));
    }
  }
}

// Pairs of base + zero point for the two row halves of each tile, from the lane's word of eight.
template <class T, int kMmaTiles>
__device__ __forceinline__ void LoadZeros(uint32_t (&zero)[kMmaTiles][2], const uint32_t* from,
                                          int first_mma_tile) {
  uint32_t word = *from >> (4 * first_mma_tile);
#pragma unroll
  for (int i = 0; i < kMmaTiles; ++i, word >>= 4) {
    const uint32_t pair = AndOr<0x000f000f, Magic<T>::kBase>(word);
    zero[i][0] = __byte_perm(pair, pair, 0x1010);
    zero[i][1] = __byte_perm(pair, pair, 0x3232);
  }
}

// Pairs of equal scales for the two row halves of each tile, from the eight bytes of the lane's
// row of a packed tile.
template <class T, WeightType kType, int kMmaTiles>
__device__ __forceinline__ void LoadFp4Scales(uint32_t (&scale)[kMmaTiles][2], const uint8_t* from,
                                              int first_mma_tile) {
  uint32_t words[(kMmaTiles + 1) / 2];  // of two tiles
  if constexpr (kMmaTiles == 4) {
    const uint2 two = *reinterpret_cast<const uint2*>(from);
    words[0] = two.x;
    words[1] = two.y;
  } else {
    words[0] = reinterpret_cast<const uint32_t*>(from)[first_mma_tile / 2];
    if (kMmaTiles == 1 && first_mma_tile % 2 != 0) words[0] >>= 8;
  }
#pragma unroll
  for (int i = 0; i < kMmaTiles; ++i) {
    const uint32_t word = i % 2 == 0 ? words[i / 2] << 8 : words[i / 2];
    const uint32_t pair = Fp4ScalePair<T, kType>(word & 0xff00ff00);
    scale[i][0] = __byte_perm(pair, pair, 0x1010);
    scale[i][1] = __byte_perm(pair, pair, 0x3232);
  }
}

// The exact fragment of tile `i`. `adjust`: what LoadZeros or LoadFp4Scales made for it.
template <class T, WeightType kType, int kWords>
__device__ __forceinline__ void Dequantize(uint32_t (&a)[4], const uint32_t (&words)[kWords], int i,
                                           const uint32_t (&adjust)[2]) {
  if constexpr (IsFp4(kType)) {
    DequantFp4<T, kType>(a, words[i], adjust[0], adjust[1]);
  } else if constexpr (kType == WeightType::kU4B8) {
    Dequant4<T>(a, words[i], Magic<T>::kZero8, Magic<T>::kZero8);
  } else if constexpr (kType == WeightType::kU4) {
    Dequant4<T>(a, words[i], adjust[0], adjust[1]);
  } else {
    Dequant8<T, kType>(a, words[2 * i], words[2 * i + 1]);
  }
}

template <class T, WeightType kType>
__device__ __forceinline__ float Scale(uint16_t bits) {
  return T::ToFloat(bits) * (kType == WeightType::kFp8 ? Magic<T>::kFp8Unfix : 1.f);
}

// What finished sums of a column are multiplied by: its scale where that is per channel, and the
// scale of the whole matrix.
template <class T, WeightType kType>
class ColumnScales {
 public:
  // `scales`: of the expert, as `global_scale` is told.
  template <class Params>
  __device__ __forceinline__ ColumnScales(const Params& params, const void* scales, int expert)
      : per_channel_(params.per_channel != 0), scales_(static_cast<const uint16_t*>(scales)) {
    if constexpr (IsFp4(kType)) global_ = Fp4Unfix<T, kType>();
    if constexpr (kType == WeightType::kNvFp4) global_ *= params.global_scale[expert];
  }

  // `position`: ChannelPosition of the column.
  __device__ __forceinline__ float operator[](int position) const {
    if constexpr (IsFp4(kType)) return global_;
    return per_channel_ ? Scale<T, kType>(scales_[position]) : 1.f;
  }

 private:
  const bool per_channel_;
  const uint16_t* const scales_;
  float global_ = 1.f;
};

// A pair of scales for the two row halves of each tile.
template <int kMmaTiles>
__device__ __forceinline__ void LoadScalePairs(uint32_t (&pairs)[kMmaTiles], const uint16_t* from) {
  if constexpr (kMmaTiles == 4) {
    Unpack(pairs, 0, *reinterpret_cast<const uint4*>(from));
  } else {
    const uint2 two = *reinterpret_cast<const uint2*>(from);
    pairs[0] = two.x;
    pairs[1] = two.y;
  }
}

// total += scale * sum; scales per channel are applied in the epilogue.
template <class T, WeightType kType, int kMmaTiles, int kTokenTiles>
__device__ __forceinline__ void AddScaled(float (&total)[kMmaTiles][kTokenTiles][4],
                                          const float (&sum)[kMmaTiles][kTokenTiles][4],
                                          const uint32_t (&pairs)[kMmaTiles], bool per_channel) {
#pragma unroll
  for (int i = 0; i < kMmaTiles; ++i) {
    const auto low_bits = static_cast<uint16_t>(pairs[i] & 0xffff);
    const auto high_bits = static_cast<uint16_t>(pairs[i] >> 16);
    const float low = per_channel ? 1.f : Scale<T, kType>(low_bits);
    const float high = per_channel ? 1.f : Scale<T, kType>(high_bits);
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      total[i][j][0] += low * sum[i][j][0];
      total[i][j][1] += low * sum[i][j][1];
      total[i][j][2] += high * sum[i][j][2];
      total[i][j][3] += high * sum[i][j][3];
    }
  }
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_FRAGMENTS_CUH_
