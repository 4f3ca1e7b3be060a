// The host's side that all kernels for repacked weights share.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_LAUNCH_H_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_LAUNCH_H_

#include <cuda_runtime.h>

#include "cuda/wna16/checks.h"
#include "cuda/wna16/common/plan.h"

namespace vk::cuda::wna16 {

// Of the current device; VK_UNSUPPORTED below 8.0.
DeviceLimits LimitsOf(const char* op);

// Bytes of the copy of `a` that the problem needs, or 0.
int64_t CopyBytes(const Problem& problem);

// The activations that a kernel reads: problem.a, or its gathered and aligned copy.
struct Activations {
  const void* a;
  int64_t lda;
};

// Makes the copy in `memory`, CopyBytes(problem) long, where one is needed.
Activations PrepareActivations(const char* op, const Problem& problem, void* memory,
                               cudaStream_t stream);

// Parameters of a kernel with the operands that all kernels have.
template <class Params>
Params WithOperands(const Problem& problem, void* c) {
  Params params{};
  params.weights = problem.weights;
  params.scales = problem.scales;
  params.zeros = problem.zeros;
  params.global_scale = problem.global_scale;
  params.bias = problem.bias;
  params.c = c;
  params.m = problem.m;
  params.n = problem.n;
  params.k = problem.k;
  params.group_magic = GroupMagic(problem.group);
  params.per_channel = problem.per_channel;
  return params;
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_LAUNCH_H_
