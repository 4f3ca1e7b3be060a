// How one GEMM of many tokens is cut for large_m/kernel.cuh: plain arithmetic, testable without
// a GPU.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_PLAN_H_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_PLAN_H_

#include "cuda/wna16/common/plan.h"
#include "cuda/wna16/large_m/params.h"

namespace vk::cuda::wna16 {

// Block shapes: X(tokens, tiles of a warp). Exact ones first.
#define VK_WNA16_LARGE_M_SHAPES(X) X(64, 1) X(128, 2)

struct LargeMPlan {
  int shape;
  int tokens;   // of a block
  int cluster;  // blocks that share K
  int chunks;   // of 64 of K that each takes
  int stages, shared_bytes;
  int blocks, threads;
};

// Whether the kernel serves the GEMM, whatever the GPU and the build. `half`: activations are
// float16.
bool LargeMServes(int m, int group, bool per_channel, WeightType type, bool half);

LargeMPlan MakeLargeMPlan(int m, int n, int k, WeightType type, const DeviceLimits& device);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_PLAN_H_
