// How one GEMM of many tokens is cut for large_m/kernel.cuh: plain arithmetic, testable without
// a GPU.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_PLAN_H_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_PLAN_H_

#include "cuda/wna16/common/plan.h"
#include "cuda/wna16/large_m/params.h"

namespace vk::cuda::wna16 {

// Block shapes: X(tokens, tiles of a warp, whether weights are exact).
#define VK_WNA16_LARGE_M_SHAPES(X) \
  X(64, 1, true) X(128, 1, true) X(128, 1, false) X(128, 2, false) X(256, 1, false)

// Blocks of a cluster, at most: what every GPU of 9.0 has.
inline constexpr int kLargeMMaxCluster = 8;

// Clusters of 1 to kLargeMMaxCluster blocks that run at once, a block a multiprocessor: fewer than
// the multiprocessors would hold, since a cluster lies within one GPC.
struct LargeMClusters {
  int most[kLargeMMaxCluster + 1];
};

// A launch: tiles from `first` on, each of which a cluster of blocks takes.
struct LargeMPart {
  int first, tiles;
  int cluster;  // blocks that share K
  int chunks;   // of 64 of K that each takes; an even number where several do
};

struct LargeMPlan {
  int shape;
  int tokens, columns;  // of a block
  int stages, shared_bytes, threads;
  // Whole waves of blocks, and the tiles that are left over, which share the multiprocessors.
  int parts;
  LargeMPart part[2];
};

// Whether the kernel serves the GEMM, whatever the GPU and the build. `half`: activations are
// float16.
bool LargeMServes(int m, int group, bool per_channel, WeightType type, bool half);

LargeMPlan MakeLargeMPlan(int m, int n, int k, WeightType type, const DeviceLimits& device,
                          const LargeMClusters& clusters);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_PLAN_H_
