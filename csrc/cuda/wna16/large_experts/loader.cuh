// The producer of the kernel for experts: bulk copies of an expert's weights, scales and zero
// points, and of boxes of its tokens, which lie by expert.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_LOADER_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_LOADER_CUH_

#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/wna16/large_experts/tile.cuh"

namespace vk::cuda::wna16 {

template <WeightType kType, class S>
class LargeExpertsLoader {
 public:
  using Stage = LargeMStage<S, kType>;
  using Pipeline = sm90::Pipeline<kLargeMMaxStages>;

  __device__ __forceinline__ LargeExpertsLoader(const LargeExpertsParams& params,
                                                const CUtensorMap* tokens,
                                                const CUtensorMap* scales, const Pipeline& pipeline,
                                                Stage* stages)
      : p_(params),
        token_map_(tokens),
        scale_map_(scales),
        pipeline_(pipeline),
        stages_(stages),
        lane_(static_cast<int>(threadIdx.x) % kLanes) {
    if (lane_ == 0) ptx::prefetch_tensormap(token_map_);
  }

  // All of K of a tile; one warp.
  __device__ __forceinline__ void Load(const LargeExpertsTile<S>& tile) {
    constexpr int kChunkBytes = sizeof(Stage::weights[0]);  // 64 columns x 64 of K
    const int group_bytes =
        (p_.per_channel ? 0 : kPackedTileN * 2) + (HasZeroPoints(kType) ? kPackedTileN / 2 : 0);
    const int scale_bytes = IsFp4(kType)
                                ? static_cast<int>(sizeof(Stage::scales))  // a box is whole
                                : tile.packed_tiles * group_bytes;
    const int bytes = p_.experts.block * 128 + tile.packed_tiles * kChunkBytes + scale_bytes;
    const auto* const weights =
        static_cast<const unsigned char*>(p_.weights) + tile.expert * p_.experts.weight_bytes +
        static_cast<int64_t>(tile.packed_tile0 + lane_) * (p_.k / 64) * kChunkBytes;
    const auto* const scales = static_cast<const uint16_t*>(p_.scales) +
                               tile.expert * p_.experts.scale_elements +
                               tile.packed_tile0 * kPackedTileN;
    for (int chunk = 0; chunk < p_.k / 64; ++chunk) {
      pipeline_.ProducerAcquire(at_);
      Stage& to = stages_[at_.stage];
      const uint32_t full = pipeline_.full(at_.stage);
      if (lane_ == 0) pipeline_.ProducerCommit(at_, bytes);
      __syncwarp();
      const int64_t group =
          static_cast<int64_t>(static_cast<uint64_t>(chunk) * p_.group_magic >> 32);
      if (lane_ < tile.packed_tiles) {
        ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.weights[lane_]), weights + chunk * kChunkBytes,
                           kChunkBytes, full);
      } else if (IsFp4(kType) && lane_ == 8) {
        ptx::tma_load_2d(ptx::cvta_to_shared(to.scales), scale_map_, full,
                         tile.packed_tile0 * kPackedTileN,
                         (tile.expert * (p_.k / 64) + chunk) * ScaleRows(kType));
      } else if (!IsFp4(kType) && lane_ == 8 && !p_.per_channel) {
        ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.scales), scales + group * p_.n,
                           tile.packed_tiles * kPackedTileN * 2, full);
      } else if (HasZeroPoints(kType) && lane_ == 9) {
        if constexpr (HasZeroPoints(kType)) {
          ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.zeros),
                             p_.zeros + tile.expert * p_.experts.zero_words + group * (p_.n / 8) +
                                 tile.packed_tile0 * (kPackedTileN / 8),
                             tile.packed_tiles * kPackedTileN / 2, full);
        }
      }
      if (lane_ == 10) {
        ptx::tma_load_2d(ptx::cvta_to_shared(to.tokens), token_map_, full, chunk * 64,
                         tile.m_tile * p_.experts.block);
      }
      __syncwarp();
      at_.Advance(p_.stages);
    }
  }

 private:
  const LargeExpertsParams& p_;
  const CUtensorMap* const token_map_;
  const CUtensorMap* const scale_map_;  // of all experts: FP4 only
  const Pipeline& pipeline_;
  Stage* const stages_;
  const int lane_;
  sm90::PipelineState at_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_LOADER_CUH_
