// c = a @ dequantized(weights) + bias for many tokens on GPUs of compute capability 9.0: weights
// are wgmma's operand in registers, dequantized there while the wgmma before runs.
//
// The columns of c are wgmma's rows: a packed tile holds the fragments of four tiles of 16
// columns, of which a warp takes one or two. From 128 tokens on weights are scaled in the 16-bit
// type, so rounded once, as dequantized ones are; for fewer they stay exact. Where tiles are few, a
// cluster shares K and adds its sums up in shared memory, always in the order of its ranks.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_KERNEL_CUH_

#include "cuda/ptx/setmaxnreg.cuh"
#include "cuda/sm90/shared_storage.cuh"
#include "cuda/wna16/large_m/epilogue.cuh"
#include "cuda/wna16/large_m/loader.cuh"
#include "cuda/wna16/large_m/mainloop.cuh"

namespace vk::cuda::wna16 {

template <class T, WeightType kType, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    LargeMKernel(const __grid_constant__ LargeMParams params,
                 const __grid_constant__ CUtensorMap tokens,
                 const __grid_constant__ CUtensorMap scales) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) char vk_large_m[];
  using Stage = LargeMStage<S, kType>;
  Stage* const stages = &sm90::AlignedStorage<Stage>(vk_large_m);
  auto& shared = *reinterpret_cast<LargeMSharedStorage*>(stages + params.stages);
  using Pipeline = sm90::Pipeline<kLargeMMaxStages>;
  static_assert(sizeof(Pipeline::SharedStorage) == sizeof(shared.barriers));
  const Pipeline pipeline(reinterpret_cast<const Pipeline::SharedStorage&>(shared.barriers));
  const LargeMTile<S> tile(params);

  ptx::griddepcontrol_launch_dependents();
  constexpr int kConsumerWarps = 8;
  if (threadIdx.x == 0) {
    pipeline.Init(kConsumerWarps, params.stages);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x < kLanes) {
      LargeMLoader<kType, S>(params, &tokens, &scales, tile, pipeline, stages).Run();
    }
    __syncwarp();
    LargeMEpilogue<T, kType, S>::RunProducer(tile);
  } else {
    ptx::setmaxnreg_inc<232>();
    const LargeMConsumer<S> self;
    float total[S::kMmaTiles][S::kSums];
    sm90::PipelineState at;
    LargeMMainloop<T, kType, S>(params, self, pipeline, stages).Run(at, tile.chunks, total);
    LargeMEpilogue<T, kType, S>(params, tile, self, reinterpret_cast<unsigned char*>(stages))
        .Run(total);
  }
#endif
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_KERNEL_CUH_
