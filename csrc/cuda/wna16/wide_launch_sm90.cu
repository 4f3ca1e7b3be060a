#include <cuda_runtime.h>

#include "cuda/common/launch.h"
#include "cuda/common/tensor_map.h"
#include "cuda/wna16/hopper_launch.h"
#include "cuda/wna16/marlin_instances.h"
#include "cuda/wna16/marlin_launch.h"
#include "cuda/wna16/wide_plan.h"

namespace vk::wna16 {
void RunWide(const char* op, const MarlinProblem& problem, void* c, void* memory,
             cudaStream_t stream) {
  const WidePlan plan = MakeWidePlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(op));
  const MarlinRows rows = PrepareRows(op, problem, memory, stream);
  WideParams params{};
  params.weights = problem.weights;
  params.scales = problem.scales;
  params.zeros = problem.zeros;
  params.bias = problem.bias;
  params.c = c;
  params.m = problem.m;
  params.n = problem.n;
  params.k = problem.k;
  params.group_magic = GroupMagic(problem.group);
  params.per_channel = problem.per_channel;
  params.chunks = plan.chunks;
  params.stages = plan.stages;
  CUtensorMap map = cuda::EncodeTensorMap<2>(
      op, rows.a,
      problem.dtype == VK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      {static_cast<uint64_t>(problem.k), static_cast<uint64_t>(problem.m)}, {rows.lda * 2},
      {64, static_cast<uint32_t>(plan.tokens)});
  void* arguments[] = {&params, &map};
  LaunchHopper(op, WideKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], plan.blocks,
               plan.threads, plan.cluster, plan.shared_bytes, arguments, stream);
}

}  // namespace vk::wna16
