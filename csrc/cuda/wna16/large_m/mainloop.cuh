// The consumers of the large-M kernel: weights become fragments in registers, operands of wgmma.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_MAINLOOP_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_MAINLOOP_CUH_

#include "cuda/ptx/wgmma.cuh"
#include "cuda/sm90/pipeline.cuh"
#include "cuda/sm90/smem_desc.cuh"
#include "cuda/wna16/common/fragments.cuh"
#include "cuda/wna16/large_m/tile.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
class LargeMMainloop {
 public:
  using Stage = LargeMStage<S, kType>;
  using Pipeline = sm90::Pipeline<kLargeMMaxStages>;
  using Scaling = LargeMScaling<S, kType>;

  __device__ __forceinline__ LargeMMainloop(const LargeMParams& params,
                                            const LargeMConsumer<S>& self, const Pipeline& pipeline,
                                            const Stage* stages)
      : p_(params), self_(self), pipeline_(pipeline), stages_(stages) {}

  // A warpgroup; leaves the sums of `chunks` steps, from stage `at` on, in `total`.
  __device__ __forceinline__ void Run(sm90::PipelineState& at, int chunks,
                                      float (&total)[S::kMmaTiles][S::kSums]) const {
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
      for (int i = 0; i < S::kSums; ++i) total[t][i] = 0;
    }
    int step = 0;
    // Two steps of one group are in flight together.
    if (!Scaling::kSums || p_.even_groups) {
      for (; step + 2 <= chunks; step += 2) Steps<2>(at, total);
    }
    for (; step < chunks; ++step) Steps<1>(at, total);
  }

 private:
  // Of the rows of each tile and the eighth after it: pairs of scales, and what fragments are
  // dequantized with (fragments.cuh).
  struct Group {
    uint32_t scale[S::kMmaTiles][2];
    uint32_t adjust[S::kMmaTiles][2];
  };

  // A slice's fragments are dequantized while wgmma runs on those before; the other warpgroup's
  // wgmma fills the gap at the end.
  template <int kSteps>
  __device__ __forceinline__ void Steps(sm90::PipelineState& at,
                                        float (&total)[S::kMmaTiles][S::kSums]) const {
    constexpr int kSets = 4;  // of fragments
    uint32_t a[kSets][S::kMmaTiles][4];
    float sum[S::kMmaTiles][Scaling::kSums ? S::kSums : 1];
    Group group;
    int stages[kSteps];
    if constexpr (!Scaling::kSums) {
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) ptx::warpgroup_fence_operand(total[t]);
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      pipeline_.ConsumerWait(at);
      const Stage& stage = stages_[at.stage];
      const uint32_t tokens = ptx::cvta_to_shared(stage.tokens);
      stages[step] = at.stage;
      if (!Scaling::kSums || step == 0) LoadGroup(group, stage);
#pragma unroll
      for (int slice = 0; slice < 4; ++slice) {
        // The wgmma that reads this set of fragments has ended.
        if (step > 0) ptx::wgmma_wait_group<kSets - 1>();
        if constexpr (IsFp4(kType)) LoadFp4Group(group, stage, slice);
        Dequantize(a[slice], stage, slice, group);
        ptx::wgmma_fence();
#pragma unroll
        for (int t = 0; t < S::kMmaTiles; ++t) {
          const uint64_t desc = sm90::MakeSmemDesc<ptx::Major::kK>(tokens + slice * 32);
          if constexpr (Scaling::kSums) {
            ptx::wgmma_rs<typename T::Element, ptx::Major::kK>(sum[t], a[slice][t], desc,
                                                               step > 0 || slice > 0);
          } else {
            ptx::wgmma_rs<typename T::Element, ptx::Major::kK>(total[t], a[slice][t], desc, 1);
          }
        }
        ptx::wgmma_commit_group();
      }
      at.Advance(p_.stages);
    }
    ptx::wgmma_wait_group<0>();
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      if constexpr (Scaling::kSums) {
        ptx::warpgroup_fence_operand(sum[t]);
        const float low = ScaleOf(group.scale[t][0]), high = ScaleOf(group.scale[t][1]);
#pragma unroll
        for (int i = 0; i < S::kSums; ++i) total[t][i] += (i % 4 < 2 ? low : high) * sum[t][i];
      } else {
        ptx::warpgroup_fence_operand(total[t]);
      }
    }
    __syncwarp();  // every lane has read its weights and scales
    if (self_.lane == 0) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) pipeline_.ConsumerRelease(stages[step]);
    }
  }

  __device__ __forceinline__ void LoadGroup(Group& group, const Stage& stage) const {
    if constexpr (IsFp4(kType)) return;
    if (!p_.per_channel) {
      const auto* const from = &stage.scales[0][self_.packed_tile * kPackedTileN +
                                                self_.lane / 4 * 8 + 2 * self_.first_mma_tile];
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) {
        uint32_t pair = reinterpret_cast<const uint32_t*>(from)[t];
        if constexpr (Scaling::kRounds) pair = WithoutFactor(pair);
        group.scale[t][0] = __byte_perm(pair, pair, 0x1010);
        group.scale[t][1] = __byte_perm(pair, pair, 0x3232);
      }
    }
    if constexpr (HasZeroPoints(kType)) {
      LoadZeros<T>(group.adjust,
                   &stage.zeros[0][self_.packed_tile * (kPackedTileN / 8) + self_.lane / 4],
                   self_.first_mma_tile);
    }
  }

  // The scales of FP4 change inside a step.
  __device__ __forceinline__ void LoadFp4Group(Group& group, const Stage& stage, int slice) const {
    constexpr int kSlices = Fp4Group(kType) / kPackedTileK;  // that share scales
    if (slice % kSlices != 0) return;
    const uint8_t* const from =
        &stage.scales[slice / kSlices][self_.packed_tile * kPackedTileN + self_.lane / 4 * 8];
    LoadFp4Scales<T, kType>(group.adjust, from, self_.first_mma_tile);
  }

  // Two scales without the factor that the engine gives those of FP8 weights.
  static __device__ __forceinline__ uint32_t WithoutFactor(uint32_t pair) {
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
  __device__ __forceinline__ void Dequantize(uint32_t (&a)[S::kMmaTiles][4], const Stage& stage,
                                             int slice, const Group& group) const {
    const uint32_t* const tile = stage.weights[self_.packed_tile][slice].words;
    constexpr int kWords = Bits(kType) / 4;  // of a lane in a tile
    const int first = self_.first_mma_tile;
    const uint32_t* const from = kWords == 1
                                     ? tile + self_.lane * 4 + first
                                     : tile + first / 2 * 128 + self_.lane * 4 + first % 2 * 2;
    uint32_t words[S::kMmaTiles * kWords];
    if constexpr (S::kMmaTiles * kWords == 4) {
      Unpack(words, 0, *reinterpret_cast<const uint4*>(from));
    } else if constexpr (S::kMmaTiles * kWords == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      words[0] = two.x;
      words[1] = two.y;
    } else {
      words[0] = *from;
    }
#pragma unroll
    for (int t = 0; t < S::kMmaTiles; ++t) {
      wna16::Dequantize<T, kType>(a[t], words, t, group.adjust[t]);
    }
    if constexpr (Scaling::kRounds) {
      if (p_.per_channel) return;
#pragma unroll
      for (int t = 0; t < S::kMmaTiles; ++t) {
#pragma unroll
        for (int r = 0; r < 4; ++r) a[t][r] = T::Mul2(a[t][r], group.scale[t][r % 2]);
      }
    }
  }

  const LargeMParams& p_;
  const LargeMConsumer<S>& self_;
  const Pipeline& pipeline_;
  const Stage* const stages_;
};

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_MAINLOOP_CUH_
