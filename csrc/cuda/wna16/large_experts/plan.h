// How a grouped GEMM is cut for large_experts/kernel.cuh: plain arithmetic, testable without a GPU.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_PLAN_H_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_PLAN_H_

#include "cuda/wna16/common/plan.h"
#include "cuda/wna16/large_experts/params.h"

namespace vk::cuda::wna16 {

// Tokens of a block: X(tokens).
#define VK_WNA16_LARGE_EXPERTS_SHAPES(X) X(32) X(64)

struct LargeExpertsPlan {
  int shape;
  int stages, shared_bytes;
  int blocks, threads;
  int n_tiles, columns;
};

// About how many tiles of `block` places `rows` rows of c, of `count` experts, make.
int64_t ExpertTiles(int rows, int count, int block);

// Whether the kernel is the one for so many tiles: where they fill most of the multiprocessors, so
// that none need share one, and are of more than 16 places, for which Marlin's kernel is faster.
bool LargeExpertsServe(int64_t m_tiles, int block, int n, WeightType type, int group,
                       bool per_channel, const DeviceLimits& device);

// Bytes of the tokens by expert; more than the most are not taken from the engine's memory.
inline constexpr int64_t kLargeExpertsMostBytes = int64_t{512} << 20;
constexpr int64_t LargeExpertsTokenBytes(int64_t places, int k) { return places * k * 2; }

// `block`: 1 to 64 places of a tile.
LargeExpertsPlan MakeLargeExpertsPlan(int block, int n, WeightType type,
                                      const DeviceLimits& device);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_EXPERTS_PLAN_H_
