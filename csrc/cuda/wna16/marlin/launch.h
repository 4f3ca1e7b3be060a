#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_LAUNCH_H_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_LAUNCH_H_

#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/marlin/params.h"
#include "cuda/wna16/marlin/plan.h"

namespace vk::cuda::wna16 {

// All but locks and experts. `memory`: the copy of `a`, CopyBytes(problem), then the plan's partial
// sums.
MarlinParams MakeMarlinParams(const char* op, const Problem& problem, const MarlinPlan& plan,
                              void* c, unsigned char* memory, cudaStream_t stream);

void LaunchMarlin(const char* op, const void* kernel, const MarlinParams& params,
                  const MarlinPlan& plan, cudaStream_t stream);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_LAUNCH_H_
