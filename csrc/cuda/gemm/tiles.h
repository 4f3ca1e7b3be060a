// The kernels: one instance for each generation, kind and tile. instances.cmake lists those that
// are compiled; one that dispatch.cc chooses besides is missed by the linker.
#ifndef VLLM_KERNELS_CUDA_GEMM_TILES_H_
#define VLLM_KERNELS_CUDA_GEMM_TILES_H_

#include "cuda/gemm/few_rows.h"
#include "cuda/gemm/problem.h"

namespace vk::cuda::gemm {

enum class Kind { kFp8, kInt8, kFp8Blocks };

// Tiles, named for how many rows of a they are good for; not every generation has every one.
enum class Tile { kFew, kRows16, kRows32, kRows64, kRows128, kMany, kLarge };

// Launches one instance; throws vk::Error.
template <Kind kKind, Tile kTile>
void LaunchSm90(const Problem& problem);

// FP8 by blocks, as PlanFewRows() says.
void LaunchFewRows(const Problem& problem, const FewRowsPlan& plan);

// FP8 by blocks, in tiles of 128 rows and kColumns columns, of which kSplit blocks have a part of k
// each.
template <int kColumns, int kSplit>
void LaunchBlocksSm90(const Problem& problem);

template <Kind kKind, Tile kTile>
void LaunchSm100(const Problem& problem);
template <Kind kKind, Tile kTile>
void LaunchSm120(const Problem& problem);

// kArch: the oldest GPUs that run it.
template <int kArch, Kind kKind, Tile kTile>
void LaunchC2x(const Problem& problem);

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_TILES_H_
