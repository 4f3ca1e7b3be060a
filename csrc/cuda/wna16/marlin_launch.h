// What products with repacked weights share on the host, dense or per expert.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_LAUNCH_H_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_LAUNCH_H_

#include <cuda_runtime.h>

#include "cuda/wna16/marlin_instances.h"
#include "cuda/wna16/marlin_params.h"
#include "cuda/wna16/marlin_plan.h"
#include "cuda/wna16/marlin_problem.h"

namespace vk::wna16 {

// Of the current device; VK_UNSUPPORTED below 8.0.
DeviceLimits LimitsOf(const char* op);

// Bytes of the copy of `a` that the problem needs, or 0.
int64_t CopyBytes(const MarlinProblem& problem);

// The rows that a kernel reads: problem.a, or its copy in `memory`, which is made where it is
// needed.
struct MarlinRows {
  const void* a;
  int64_t lda;
};
MarlinRows PrepareRows(const char* op, const MarlinProblem& problem, void* memory,
                       cudaStream_t stream);

// All but c, partials, locks and experts. Makes the copy of `a` in `memory`, where one is needed.
MarlinParams MakeParams(const char* op, const MarlinProblem& problem, const Plan& plan,
                        void* memory, cudaStream_t stream);

void LaunchMarlin(const char* op, const void* kernel, const MarlinParams& params, const Plan& plan,
                  cudaStream_t stream);

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_LAUNCH_H_
