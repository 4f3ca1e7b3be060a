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
  CheckCuda(
      op, "reserving shared memory",
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(kMarlinShapes[plan.shape].threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = plan.early && CurrentDevice(op).capability >= 90 ? 1 : 0;
  void* arguments[] = {const_cast<MarlinParams*>(&params)};
  const cudaError_t error = cudaLaunchKernelExC(&config, kernel, arguments);
  if (error != cudaSuccess) CheckLaunch(op);
}

}  // namespace vk::cuda::wna16
