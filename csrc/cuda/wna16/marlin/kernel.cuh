// c = a @ dequantized(weights) + bias for few tokens: as fast as the weights stream from memory.
//
// Blocks take equal shares of all steps (tile of c x 64 * kWarpsK of K), whatever tile these belong
// to ("stream-K": Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense
// Matrix-Matrix Multiplication on the GPU", 2023). A tile that several blocks share is added up by
// the last one to finish, always in the order of K: the result does not depend on who that is.
// Weights, activations, scales and zero points pass through a pipeline of cp.async stages that does
// not drain between tiles. Numbers: weights are exact in the 16-bit type, products are summed in
// float32 per group of K, and each such sum is multiplied by its scale in float32.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_KERNEL_CUH_

#include "cuda/ptx/griddepcontrol.cuh"
#include "cuda/wna16/marlin/epilogue.cuh"
#include "cuda/wna16/marlin/loader.cuh"

namespace vk::cuda::wna16 {

// kExperts: tiles of tokens are by expert (MarlinParams::experts).
template <class T, WeightType kType, class S, bool kExperts>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksPerSm)
    MarlinKernel(const __grid_constant__ MarlinParams params) {
  extern __shared__ __align__(128) unsigned char vk_marlin[];
  using Stage = MarlinStage<S, kType>;
  auto* const stages = reinterpret_cast<Stage*>(vk_marlin);

  const MarlinSchedule<S, kExperts> schedule(params);
  MarlinLoader<kType, S, kExperts> loader(params, schedule, stages);
  MarlinAccumulator<T, kType, S> accumulator(params);
  MarlinEpilogue<T, kType, S, kExperts> epilogue(params, schedule, stages, accumulator);

  if constexpr (!kExperts) {
    ptx::griddepcontrol_launch_dependents();
    if (params.prefetch_steps > 0) loader.PrefetchWeights();
    ptx::griddepcontrol_wait();
  }
  if (schedule.begin >= schedule.end) return;
  loader.Start();
  for (int stage = 0; stage < params.stages - 1; ++stage) loader.LoadNext(stage);

  int tile = schedule.begin / params.k_steps;
  int k_step = schedule.begin % params.k_steps;
  int first = k_step;  // of this block in this tile
  int stage = 0;
  accumulator.Clear();
  for (int step = schedule.begin; step < schedule.end; ++step) {
    loader.Wait();
    __syncthreads();
    loader.LoadNext(stage == 0 ? params.stages - 1 : stage - 1);
    accumulator.MultiplyStage(stages[stage]);
    if (++stage == params.stages) stage = 0;
    if (++k_step == params.k_steps || step + 1 == schedule.end) {
      epilogue.Run(tile, first > 0 || k_step < params.k_steps);
      accumulator.Clear();
      ++tile;
      k_step = first = 0;
    }
  }
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_KERNEL_CUH_
