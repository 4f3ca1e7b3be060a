// Products per expert of many tokens with repacked weights on GPUs of compute capability 9.0: the
// loop of large_m/ over tiles of tokens that belong to one expert each. Blocks stay and take every
// gridDim.x-th tile; the producer runs ahead to the next one while rows of this one are written.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_KERNEL_CUH_

#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/sm90/shared_storage.cuh"
#include "cuda/wna16/large_experts/epilogue.cuh"
#include "cuda/wna16/large_experts/loader.cuh"
#include "cuda/wna16/large_m/mainloop.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    LargeExpertsKernel(const __grid_constant__ LargeExpertsParams params,
                       const __grid_constant__ CUtensorMap tokens,
                       const __grid_constant__ CUtensorMap scales) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) char vk_large_experts[];
  using Stage = LargeMStage<S, kType>;
  Stage* const stages = &sm90::AlignedStorage<Stage>(vk_large_experts);
  auto& shared = *reinterpret_cast<LargeExpertsSharedStorage<S>*>(stages + params.stages);
  using Pipeline = sm90::Pipeline<kLargeMMaxStages>;
  static_assert(sizeof(Pipeline::SharedStorage) == sizeof(shared.barriers));
  const Pipeline pipeline(reinterpret_cast<const Pipeline::SharedStorage&>(shared.barriers));

  ptx::griddepcontrol_launch_dependents();
  constexpr int kConsumerWarps = 8;
  if (threadIdx.x == 0) {
    pipeline.Init(kConsumerWarps, params.stages);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::griddepcontrol_wait();  // which experts' weights are wanted is known only then
  const int m_tiles = *params.experts.padded / params.experts.block;
  const int tiles = m_tiles * params.n_tiles;
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x < kLanes) {
      LargeExpertsLoader<kType, S> loader(params, &tokens, &scales, pipeline, stages);
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const LargeExpertsTile<S> at(params, tile, m_tiles);
        if (at.expert >= 0) loader.Load(at);
      }
    }
  } else {
    ptx::setmaxnreg_inc<232>();
    const LargeMConsumer<S> self;
    const LargeMMainloop<T, kType, S> mainloop(params, self, pipeline, stages);
    sm90::PipelineState stage;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const LargeExpertsTile<S> at(params, tile, m_tiles);
      if (at.expert < 0) continue;
      float total[S::kMmaTiles][S::kSums];
      mainloop.Run(stage, params.k / 64, total);
      LargeExpertsEpilogue<T, kType, S>(params, at, self, shared).Run(total);
    }
  }
#endif
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_KERNEL_CUH_
