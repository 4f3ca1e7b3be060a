#include "cuda/common/pdl.cuh"
#include "cuda/quant/launch.h"

namespace vk::cuda::quant {
namespace {

constexpr int kThreads = 256;

// What packed scales and their rows are padded with.
__global__ void __launch_bounds__(kThreads)
    PaddingKernel(const __grid_constant__ Problem problem, int64_t packs) {
  PdlPrologue();
  uint8_t* scales = reinterpret_cast<uint8_t*>(problem.scales);
  uint8_t* result = static_cast<uint8_t*>(problem.result);
  const int64_t first = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  const int64_t last_pack = (packs - 1) * problem.scale_group_stride;
  for (int64_t i = first; i < problem.rows; i += step) {
    for (int64_t group = problem.groups; group < packs * 4; ++group) {
      scales[(last_pack + i) * 4 + group % 4] = 0;
    }
  }
  // The last column of packs ends with the last row: its padding is not memory of the tensor.
  const int64_t spare = problem.padded_rows - problem.rows;
  for (int64_t i = first; i < spare * (packs - 1); i += step) {
    const int64_t at = i / spare * problem.scale_group_stride + problem.rows + i % spare;
    reinterpret_cast<int32_t*>(scales)[at] = 0;
  }
  for (int64_t i = first; i < problem.result_padding * problem.width; i += step) {
    const int64_t row = problem.rows + i / problem.width;
    result[problem.result_rows.Offset(row) + i % problem.width] = 0;
  }
}

}  // namespace

void LaunchGroups(GroupScale scale, const Problem& problem, const Launch& launch) {
  if (problem.count == 0) return;
  if (scale == GroupScale::kFloat) return LaunchGroupsOf<GroupScale::kFloat>(problem, launch);
  if (scale == GroupScale::kPowerOfTwo) {
    return LaunchGroupsOf<GroupScale::kPowerOfTwo>(problem, launch);
  }
  LaunchGroupsOf<GroupScale::kPacked>(problem, launch);
  const int64_t packs = CeilDiv(problem.groups, 4);
  if (problem.groups % 4 == 0 && problem.padded_rows == problem.rows) return;
  LaunchPdl(launch.op, PaddingKernel, 32, kThreads, 0, launch.stream, problem, packs);
}

}  // namespace vk::cuda::quant
