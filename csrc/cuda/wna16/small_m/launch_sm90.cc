#include "cuda/common/launch.h"
#include "cuda/sm90/tensor_map.h"
#include "cuda/wna16/common/kernel_tables.h"
#include "cuda/wna16/common/launch.h"
#include "cuda/wna16/common/scale_map.h"
#include "cuda/wna16/select.h"
#include "cuda/wna16/small_m/plan.h"

namespace vk::cuda::wna16 {

void RunSmallM(const char* op, const Problem& problem, void* c, void* memory, cudaStream_t stream) {
  const SmallMPlan plan =
      MakeSmallMPlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(op));
  const Activations activations = PrepareActivations(op, problem, memory, stream);
  auto params = WithOperands<SmallMScaledParams>(problem, c);
  params.token_scales = problem.token_scales;
  params.channel_scales = problem.channel_scales;
  params.a = activations.a;
  params.last_steps = plan.last_steps;
  params.chunks = plan.chunks;
  params.stages = plan.stages;
  params.stage_bytes = plan.stage_bytes;
  CUtensorMap map = sm90::EncodeTensorMap<3>(
      op, activations.a, sm90::Float16MapType(problem.dtype == VK_BF16),
      {64, static_cast<uint64_t>(problem.m), static_cast<uint64_t>(problem.k / 64)},
      {activations.lda * 2, 128},
      {64, static_cast<uint32_t>(problem.m), static_cast<uint32_t>(plan.chunks_at_once)});
  CUtensorMap scales = Fp4ScaleMap(op, problem, 1, plan.columns, plan.chunks_at_once);
  void* arguments[] = {&params, &map, &scales};
  const LaunchConfig config{dim3(static_cast<unsigned>(plan.blocks)),
                            dim3(static_cast<unsigned>(plan.threads)),
                            plan.shared_bytes,
                            stream,
                            true,
                            dim3(static_cast<unsigned>(plan.cluster))};
  // The parameters of kernels without scales are the first part of those with them.
  const KernelTable kernels = problem.channel_scales != nullptr
                                  ? SmallMScaledKernels()
                                  : SmallMKernels(problem.dtype == VK_BF16, problem.type);
  LaunchKernel(op, kernels[plan.shape], config, arguments);
}

}  // namespace vk::cuda::wna16
