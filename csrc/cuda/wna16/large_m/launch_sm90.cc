#include "cuda/common/launch.h"
#include "cuda/sm90/tensor_map.h"
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/large_m/plan.h"
#include "cuda/wna16/select.h"

namespace vk::cuda::wna16 {

void RunLargeM(const char* op, const Problem& problem, void* c, void* memory, cudaStream_t stream) {
  const LargeMPlan plan =
      MakeLargeMPlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(op));
  const Activations activations = PrepareActivations(op, problem, memory, stream);
  auto params = WithOperands<LargeMParams>(problem, c);
  params.chunks = plan.chunks;
  params.stages = plan.stages;
  CUtensorMap map = sm90::EncodeTensorMap<2>(
      op, activations.a,
      problem.dtype == VK_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      {static_cast<uint64_t>(problem.k), static_cast<uint64_t>(problem.m)}, {activations.lda * 2},
      {64, static_cast<uint32_t>(plan.tokens)});
  void* arguments[] = {&params, &map};
  LaunchConfig config{};
  config.grid = dim3(static_cast<unsigned>(plan.blocks));
  config.block = dim3(static_cast<unsigned>(plan.threads));
  config.shared_bytes = plan.shared_bytes;
  config.stream = stream;
  config.pdl = true;
  config.cluster = dim3(static_cast<unsigned>(plan.cluster));
  LaunchKernel(op, LargeMKernels(problem.dtype == VK_BF16, problem.type)[plan.shape], config,
               arguments);
}

}  // namespace vk::cuda::wna16
