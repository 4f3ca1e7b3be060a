#include "cuda/wna16/marlin/launch.h"

#include "cuda/common/launch.h"

namespace vk::cuda::wna16 {

MarlinParams MakeMarlinParams(const char* op, const Problem& problem, const MarlinPlan& plan,
                              void* c, unsigned char* memory, cudaStream_t stream) {
  const Activations activations = PrepareActivations(op, problem, memory, stream);
  auto params = WithOperands<MarlinParams>(problem, c);
  params.a = activations.a;
  params.lda = activations.lda;
  params.group = problem.group;
  params.m_tiles = plan.m_tiles;
  params.n_tiles = plan.n_tiles;
  params.k_steps = plan.k_steps;
  params.steps = plan.steps;
  params.block_steps = plan.block_steps;
  params.lock_by_tile = plan.lock_by_tile;
  params.stages = plan.stages;
  params.prefetch_steps = plan.prefetch_steps;
  if (plan.partial_bytes > 0) {
    params.partials = reinterpret_cast<float*>(memory + CopyBytes(problem));
  }
  return params;
}

void LaunchMarlin(const char* op, const void* kernel, const MarlinParams& params,
                  const MarlinPlan& plan, cudaStream_t stream) {
  LaunchConfig config{};
  config.grid = dim3(static_cast<unsigned>(plan.blocks));
  config.block = dim3(static_cast<unsigned>(kMarlinShapes[plan.shape].threads));
  config.shared_bytes = plan.shared_bytes;
  config.stream = stream;
  config.pdl = plan.pdl && CurrentDevice(op).capability >= 90;
  void* arguments[] = {const_cast<MarlinParams*>(&params)};
  LaunchKernel(op, kernel, config, arguments);
}

}  // namespace vk::cuda::wna16
