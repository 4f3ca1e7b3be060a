// Definition of LaunchHopper(): included by the generated instance files only.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_HOPPER_INSTANCE_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_HOPPER_INSTANCE_CUH_

#include "cuda/attention/hopper.cuh"
#include "cuda/common/launch.h"

namespace vk::cuda::attention {

template <class T, int kHead>
void LaunchHopper(const char* op, const Problem& problem, const HopperPlan& plan, int32_t blocks,
                  const CUtensorMap (&maps)[3], cudaStream_t stream) {
  using Traits = HopperTraits<kHead>;
  const bool extras = problem.alibi != nullptr || problem.softcap > 0.0f;
  const auto kernel = extras ? &HopperKernel<T, kHead, true> : &HopperKernel<T, kHead, false>;
  LaunchKernel(op, kernel,
               {dim3(blocks), dim3(Traits::kThreads),
                sm90::kSharedBytes<typename Traits::SharedStorage>, stream},
               problem, plan, maps[0], maps[1], maps[2]);
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_HOPPER_INSTANCE_CUH_
