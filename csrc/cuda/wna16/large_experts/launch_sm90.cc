#include "cuda/common/launch.h"
#include "cuda/sm90/tensor_map.h"
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/common/scale_map.h"
#include "cuda/wna16/large_experts/gather.h"
#include "cuda/wna16/large_experts/plan.h"
#include "cuda/wna16/select.h"

namespace vk::cuda::wna16 {

void RunLargeExperts(const char* op, const Problem& problem, const MarlinExpertParams& experts,
                     int64_t count, int64_t places, void* c, void* memory, cudaStream_t stream) {
  const LargeExpertsPlan plan =
      MakeLargeExpertsPlan(experts.block, problem.n, problem.type, LimitsOf(op));
  const Activations activations = PrepareActivations(op, problem, memory, stream);
  void* const tokens = static_cast<unsigned char*>(memory) + CopyBytes(problem);
  GatherTokens(op, tokens, activations, experts, places, problem.k, stream);
  auto params = WithOperands<LargeExpertsParams>(problem, c);
  params.experts = experts;
  params.n_tiles = plan.n_tiles;
  params.stages = plan.stages;
  params.even_groups = HasEvenGroups(problem.group, problem.per_channel != 0);
  CUtensorMap map = sm90::EncodeTensorMap<2>(
      op, tokens, sm90::Float16MapType(problem.dtype == VK_BF16),
      {static_cast<uint64_t>(problem.k), static_cast<uint64_t>(places)}, {int64_t{problem.k} * 2},
      {64, static_cast<uint32_t>(experts.block)});
  const LaunchConfig config{dim3(static_cast<unsigned>(plan.blocks)),
                            dim3(static_cast<unsigned>(plan.threads)), plan.shared_bytes, stream,
                            true};
  CUtensorMap scales = Fp4ScaleMap(op, problem, count, plan.columns, 1);
  void* arguments[] = {&params, &map, &scales};
  LaunchKernel(op, LargeExpertsKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], config,
               arguments);
}

}  // namespace vk::cuda::wna16
