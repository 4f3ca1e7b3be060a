#include <cuda_runtime.h>

#include "cuda/common/launch.h"
#include "cuda/common/tensor_map.h"
#include "cuda/wna16/hopper_launch.h"
#include "cuda/wna16/marlin_instances.h"
#include "cuda/wna16/marlin_launch.h"
#include "cuda/wna16/stream_plan.h"

namespace vk::wna16 {
void RunStream(const char* op, const MarlinProblem& problem, void* c, void* memory,
               cudaStream_t stream) {
  const StreamPlan plan =
      MakeStreamPlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(op));
  const MarlinRows rows = PrepareRows(op, problem, memory, stream);
  StreamParams params{};
  params.a = rows.a;
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
  params.last_steps = plan.last_steps;
  params.chunks = plan.chunks;
  params.stages = plan.stages;
  params.stage_bytes = plan.stage_bytes;
  CUtensorMap map = cuda::EncodeTensorMap<3>(
      op, rows.a,
      problem.dtype == VK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      {64, static_cast<uint64_t>(problem.m), static_cast<uint64_t>(problem.k / 64)},
      {rows.lda * 2, 128},
      {64, static_cast<uint32_t>(problem.m), static_cast<uint32_t>(plan.chunks_at_once)});
  void* arguments[] = {&params, &map};
  LaunchHopper(op, StreamKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], plan.blocks,
               plan.threads, plan.cluster, plan.shared_bytes, arguments, stream);
}

}  // namespace vk::wna16
