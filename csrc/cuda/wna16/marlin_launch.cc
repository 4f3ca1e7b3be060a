#include "cuda/wna16/marlin_launch.h"

#include "cuda/common/launch.h"
#include "cuda/wna16/permute.h"

namespace vk::wna16 {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

DeviceLimits LimitsOf(const char* op) {
  const cuda::Device& device = cuda::CurrentDevice(op);
  if (device.capability < 80) {
    Fail(VK_UNSUPPORTED, "%s: the GPU is %d.%d, want compute capability 8.0 or newer", op,
         device.capability / 10, device.capability % 10);
  }
  return {device.multiprocessors, device.shared_bytes};
}

int64_t CopyBytes(const MarlinProblem& problem) {
  if (!problem.copies_a) return 0;
  const int64_t bytes = static_cast<int64_t>(problem.m) * problem.k * 2;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

MarlinRows PrepareRows(const char* op, const MarlinProblem& problem, void* memory,
                       cudaStream_t stream) {
  if (!problem.copies_a) return {problem.a, problem.lda};
  PermuteColumns(op, memory, problem.a, problem.lda, problem.perm, problem.m, problem.k, stream);
  return {memory, problem.k};
}

MarlinParams MakeParams(const char* op, const MarlinProblem& problem, const Plan& plan,
                        void* memory, cudaStream_t stream) {
  const MarlinRows rows = PrepareRows(op, problem, memory, stream);
  MarlinParams params{};
  params.a = rows.a;
  params.lda = rows.lda;
  params.weights = problem.weights;
  params.scales = problem.scales;
  params.zeros = problem.zeros;
  params.bias = problem.bias;
  params.m = problem.m;
  params.n = problem.n;
  params.k = problem.k;
  params.group = problem.group;
  params.group_magic = GroupMagic(problem.group);
  params.per_channel = problem.per_channel;
  params.m_tiles = plan.m_tiles;
  params.n_tiles = plan.n_tiles;
  params.k_steps = plan.k_steps;
  params.steps = plan.steps;
  params.block_steps = plan.block_steps;
  params.lock_by_tile = plan.lock_by_tile;
  params.stages = plan.stages;
  params.prefetch_steps = plan.prefetch_steps;
  return params;
}

void LaunchMarlin(const char* op, const void* kernel, const MarlinParams& params, const Plan& plan,
                  cudaStream_t stream) {
  cuda::CheckCuda(
      op, "reserving shared memory",
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(kShapes[plan.shape].threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = plan.early && cuda::CurrentDevice(op).capability >= 90 ? 1 : 0;
  void* arguments[] = {const_cast<MarlinParams*>(&params)};
  const cudaError_t error = cudaLaunchKernelExC(&config, kernel, arguments);
  if (error != cudaSuccess) cuda::CheckLaunch(op);
}

}  // namespace vk::wna16
