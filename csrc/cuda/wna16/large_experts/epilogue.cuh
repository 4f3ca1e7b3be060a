// The end of a tile in the kernel for experts: sums are scaled where scales are per channel, get
// their bias and router weight, and go to the rows of c that they belong to.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_EPILOGUE_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_EPILOGUE_CUH_

#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/large_experts/tile.cuh"
#include "cuda/wna16/large_m/tile.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
class LargeExpertsEpilogue {
 public:
  using SharedStorage = LargeExpertsSharedStorage<S>;

  __device__ __forceinline__ LargeExpertsEpilogue(const LargeExpertsParams& params,
                                                  const LargeExpertsTile<S>& tile,
                                                  const LargeMConsumer<S>& self,
                                                  SharedStorage& shared)
      : p_(params), tile_(tile), self_(self), shared_(shared) {}

  // Both warpgroups.
  __device__ __forceinline__ void Run(const float (&total)[S::kMmaTiles][S::kSums]) const {
    self_.SyncConsumers();  // the rows of the tile before have been written
    if (self_.thread < S::kTokens) {
      const int row = tile_.Row(p_, self_.thread);
      shared_.row[self_.thread] = row;
      shared_.factor[self_.thread] =
          row >= 0 && p_.experts.router_weights != nullptr ? p_.experts.router_weights[row] : 1.f;
    }
    self_.SyncConsumers();
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) StageSums(t, total[t]);
    self_.SyncConsumers();
    WriteRows();
  }

 private:
  static constexpr int kPitch = SharedStorage::kPitch;

  // Sums of tile `t` as columns of rows.
  __device__ __forceinline__ void StageSums(int t, const float (&total)[S::kSums]) const {
    const auto* const bias = static_cast<const uint16_t*>(p_.bias);
    const ColumnScales<T, kType> scales(
        p_, static_cast<const uint16_t*>(p_.scales) + tile_.expert * p_.experts.scale_elements,
        tile_.expert);
#pragma unroll
    for (int high = 0; high < 2; ++high) {
      const int column = self_.packed_tile * kPackedTileN + (self_.first_mma_tile + t) * 16 +
                         8 * high + self_.lane / 4;
      const bool there = self_.packed_tile < tile_.packed_tiles;
      const int position = there ? ChannelPosition(tile_.packed_tile0 * kPackedTileN + column) : 0;
      const float scale = scales[position];
      const float offset =
          bias != nullptr ? T::ToFloat(bias[tile_.expert * p_.experts.bias_elements + position])
                          : 0.f;
#pragma unroll
      for (int j = 0; j < S::kTokens / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int token = 8 * j + 2 * (self_.lane % 4) + e;
          const float value =
              (total[4 * j + 2 * high + e] * scale + offset) * shared_.factor[token];
          *reinterpret_cast<uint16_t*>(shared_.rows + token * kPitch + column * 2) =
              T::FromFloat(value);
        }
      }
    }
  }

  __device__ __forceinline__ void WriteRows() const {
    constexpr int kVectors = S::kColumns / 8;  // of 16 bytes in a row
    for (int i = self_.thread; i < S::kTokens * kVectors; i += 256) {
      const int token = i / kVectors, vector = i % kVectors, row = shared_.row[token];
      if (row < 0 || vector >= tile_.packed_tiles * (kPackedTileN / 8)) continue;
      uint16_t* const to = static_cast<uint16_t*>(p_.c) + static_cast<int64_t>(row) * p_.n +
                           tile_.packed_tile0 * kPackedTileN + vector * 8;
      *reinterpret_cast<uint4*>(to) =
          *reinterpret_cast<const uint4*>(shared_.rows + token * kPitch + vector * 16);
    }
  }

  const LargeExpertsParams& p_;
  const LargeExpertsTile<S>& tile_;
  const LargeMConsumer<S>& self_;
  SharedStorage& shared_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_EPILOGUE_CUH_
