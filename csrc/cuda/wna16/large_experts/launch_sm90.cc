#include "cuda/common/launch.h"
#include "cuda/sm90/tensor_map.h"
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/large_experts/gather.h"
#include "cuda/wna16/large_experts/plan.h"
#include "cuda/wna16/select.h"

namespace vk::cuda::wna16 {

void RunLargeExperts(const char* op, const Problem& problem, const MarlinExpertParams& experts,
                     int64_t places, void* c, void* memory, cudaStream_t stream) {
  const LargeExpertsPlan plan =
      MakeLargeExpertsPlan(experts.block, problem.n, problem.type, LimitsOf(op));
  const Activations activations = PrepareActivations(op, problem, memory, stream);
  void* const tokens = static_cast<unsigned char*>(memory) + CopyBytes(problem);
  GatherTokens(op, tokens, activations, experts, places, problem.k, stream);
  auto params = WithOperands<LargeExpertsParams>(problem, c);
  params.experts = experts;
  params.n_tiles = plan.n_tiles;
  params.stages = plan.stages;
  CUtensorMap map = sm90::EncodeTensorMap<2>(
      op, tokens,
      problem.dtype == VK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      {static_cast<uint64_t>(problem.k), static_cast<uint64_t>(places)}, {int64_t{problem.k} * 2},
      {64, static_cast<uint32_t>(experts.block)});
  LaunchConfig config{};
  config.grid = dim3(static_cast<unsigned>(plan.blocks));
  config.block = dim3(static_cast<unsigned>(plan.threads));
  config.shared_bytes = plan.shared_bytes;
  config.stream = stream;
  config.pdl = true;
  void* arguments[] = {&params, &map};
  LaunchKernel(op, LargeExpertsKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], config,
               arguments);
}

}  // namespace vk::cuda::wna16
