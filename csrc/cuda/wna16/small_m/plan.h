// How one GEMM of few tokens is cut for small_m/kernel.cuh: plain arithmetic, testable without a
// GPU.
#ifndef VLLM_KERNELS_CUDA_WNA16_SMALL_M_PLAN_H_
#define VLLM_KERNELS_CUDA_WNA16_SMALL_M_PLAN_H_

#include <cstdint>

#include "cuda/wna16/common/plan.h"
#include "cuda/wna16/small_m/params.h"

namespace vk::cuda::wna16 {

// Block shapes: X(token tiles, packed tiles).
#define VK_WNA16_SMALL_M_SHAPES(X) X(1, 1) X(1, 2) X(2, 1) X(2, 2)

inline constexpr int kSmallMTokens = 16;

struct SmallMPlan {
  int shape;
  int cluster;  // blocks that share K
  int chunks;   // of 64 of K that each takes
  int stages, stage_bytes, shared_bytes;
  int chunks_at_once;  // of K that a stage holds
  int last_steps;      // SmallMParams
  int blocks, threads;
  int columns;  // of a block
};

// Whether the kernel serves the GEMM, whatever the GPU and the build.
bool SmallMServes(int m, WeightType type, int group, bool per_channel);

// `m`: 1 to kSmallMTokens.
SmallMPlan MakeSmallMPlan(int m, int n, int k, WeightType type, const DeviceLimits& device);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_SMALL_M_PLAN_H_
