// The producer of the large-M kernel: bulk copies of weights, scales and zero points, and of boxes
// of tokens.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_LOADER_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_LOADER_CUH_

#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/ptx/tma.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/wna16/large_m/tile.cuh"

namespace vk::cuda::wna16 {

template <WeightType kType, class S>
class LargeMLoader {
 public:
  using Stage = LargeMStage<S, kType>;
  using Pipeline = sm90::Pipeline<kLargeMMaxStages>;

  __device__ __forceinline__ LargeMLoader(const LargeMParams& params, const CUtensorMap* tokens,
                                          const CUtensorMap* scales, const LargeMTile<S>& tile,
                                          const Pipeline& pipeline, Stage* stages)
      : p_(params),
        token_map_(tokens),
        scale_map_(scales),
        tile_(tile),
        pipeline_(pipeline),
        stages_(stages),
        lane_(static_cast<int>(threadIdx.x) % kLanes) {}

  // One warp.
  __device__ __forceinline__ void Run() const {
    const int first_round = min(p_.stages, tile_.chunks);
    for (int step = 0; step < first_round; ++step) LoadWeights(step, {step, 0});
    ptx::griddepcontrol_wait();
    if (lane_ == 0) {
      for (int step = 0; step < first_round; ++step) LoadTokens(step, step);
    }
    __syncwarp();
    sm90::PipelineState at = {0, 1};  // the second round
    for (int step = first_round; step < tile_.chunks; ++step) {
      pipeline_.ProducerAcquire(at);
      LoadWeights(step, at);
      if (lane_ == 0) LoadTokens(step, at.stage);
      __syncwarp();
      at.Advance(p_.stages);
    }
  }

 private:
  // Weights, scales and zero points, which depend on no kernel before this one.
  __device__ __forceinline__ void LoadWeights(int step, const sm90::PipelineState& at) const {
    constexpr int kChunkBytes = sizeof(Stage::weights[0]);  // 64 columns x 64 of K
    const int chunk = tile_.begin + step;
    Stage& to = stages_[at.stage];
    const uint32_t full = pipeline_.full(at.stage);
    if (lane_ == 0) {
      const int row =
          (p_.per_channel ? 0 : kPackedTileN * 2) + (HasZeroPoints(kType) ? kPackedTileN / 2 : 0);
      const int scales = IsFp4(kType) ? static_cast<int>(sizeof(to.scales))  // a box is whole
                                      : tile_.packed_tiles * row;
      pipeline_.ProducerCommit(
          at, static_cast<int>(sizeof(Stage::tokens)) + tile_.packed_tiles * kChunkBytes + scales);
    }
    __syncwarp();
    const int64_t group = static_cast<int64_t>(static_cast<uint64_t>(chunk) * p_.group_magic >> 32);
    if (lane_ < tile_.packed_tiles) {
      const int64_t from = static_cast<int64_t>(tile_.packed_tile0 + lane_) * (p_.k / 64) + chunk;
      ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.weights[lane_]),
                         static_cast<const unsigned char*>(p_.weights) + from * kChunkBytes,
                         kChunkBytes, full);
    } else if (IsFp4(kType) && lane_ == 8) {
      ptx::tma_load_2d(ptx::cvta_to_shared(to.scales), scale_map_, full,
                       tile_.packed_tile0 * kPackedTileN, chunk * ScaleRows(kType));
    } else if (!IsFp4(kType) && lane_ == 8 && !p_.per_channel) {
      ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.scales),
                         static_cast<const uint16_t*>(p_.scales) + group * p_.n +
                             tile_.packed_tile0 * kPackedTileN,
                         tile_.packed_tiles * kPackedTileN * 2, full);
    } else if (HasZeroPoints(kType) && lane_ == 9) {
      if constexpr (HasZeroPoints(kType)) {
        ptx::bulk_copy_g2s(ptx::cvta_to_shared(to.zeros),
                           p_.zeros + group * (p_.n / 8) + tile_.packed_tile0 * (kPackedTileN / 8),
                           tile_.packed_tiles * kPackedTileN / 2, full);
      }
    }
  }

  __device__ __forceinline__ void LoadTokens(int step, int stage) const {
    ptx::tma_load_2d(ptx::cvta_to_shared(stages_[stage].tokens), token_map_, pipeline_.full(stage),
                     (tile_.begin + step) * 64, tile_.token0);
  }

  const LargeMParams& p_;
  const CUtensorMap* const token_map_;
  const CUtensorMap* const scale_map_;  // FP4 only
  const LargeMTile<S>& tile_;
  const Pipeline& pipeline_;
  Stage* const stages_;
  const int lane_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_LOADER_CUH_
