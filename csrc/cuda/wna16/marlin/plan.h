// How one GEMM is cut into tiles, steps and blocks: plain arithmetic, testable without a GPU.
#ifndef VLLM_KERNELS_CUDA_WNA16_MARLIN_PLAN_H_
#define VLLM_KERNELS_CUDA_WNA16_MARLIN_PLAN_H_

#include <cstdint>

#include "cuda/wna16/common/plan.h"
#include "cuda/wna16/marlin/params.h"

namespace vk::cuda::wna16 {

// Block shapes: X(token tiles, warps along N, warps along K). Those that plans choose ...
#define VK_WNA16_MARLIN_PLANNED_SHAPES(X) \
  X(1, 2, 4)                              \
  X(2, 2, 4)                              \
  X(4, 2, 4)                              \
  X(8, 8, 1)

// ... and all that are compiled.
#define VK_WNA16_MARLIN_SHAPES(X)   \
  VK_WNA16_MARLIN_PLANNED_SHAPES(X) \
  X(1, 1, 8)                        \
  X(2, 1, 8)

struct MarlinShapeInfo {
  int token_tiles, warps_n, warps_k;
  int tokens, n, k, threads;
  int blocks_per_sm;       // that its registers allow
  int tile_bytes;          // of float32 sums
  const int* stage_bytes;  // shared memory, by WeightType
  int rest_bytes;
};

extern const MarlinShapeInfo kMarlinShapes[];
extern const int kMarlinShapeCount;

// What a benchmark may force; -1: as planned.
struct MarlinPlanOverride {
  int shape = -1;
  int stages = -1;
  int blocks = -1;
  int prefetch = -1;  // steps; below -1: no programmatic launch either
};

struct MarlinPlan {
  int shape;
  int stages;
  int blocks;
  int m_tiles, n_tiles, k_steps, steps, block_steps;
  int lock_by_tile;
  int prefetch_steps;
  bool pdl;  // programmatic dependent launch
  int shared_bytes;
  int64_t partial_bytes;  // 0: no tile is shared
};

// `locks`: int32 that the caller's workspace holds, at least 1.
MarlinPlan MakeMarlinPlan(int m, int n, int k, WeightType type, const DeviceLimits& device,
                          int64_t locks, const MarlinPlanOverride& force);

// Of a grouped GEMM, whose number of tiles of `block` tokens the device alone knows: m_tiles,
// steps and block_steps stay 0. `m_tiles`: about how many, for how many blocks there are.
MarlinPlan MakeMarlinExpertPlan(int block, int64_t m_tiles, int n, int k, WeightType type,
                                const DeviceLimits& device, int64_t locks);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_MARLIN_PLAN_H_
