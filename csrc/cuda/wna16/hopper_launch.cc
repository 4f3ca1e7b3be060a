#include "cuda/wna16/hopper_launch.h"

#include "cuda/common/launch.h"
#include "cuda/wna16/marlin_instances.h"
#include "cuda/wna16/marlin_launch.h"
#include "cuda/wna16/stream_plan.h"
#include "cuda/wna16/wide_plan.h"

namespace vk::wna16 {

#ifdef VK_WNA16_SM90

namespace {

KernelTable StreamKernelsOf(const MarlinProblem& problem) {
  const bool bf16 = problem.dtype == VK_BF16;
  switch (problem.type) {
    case WeightType::kU4B8:
      return bf16 ? StreamKernelsBf16U4B8() : StreamKernelsHalfU4B8();
    case WeightType::kU4:
      return bf16 ? StreamKernelsBf16U4() : StreamKernelsHalfU4();
    case WeightType::kU8B128:
      return bf16 ? StreamKernelsBf16U8B128() : StreamKernelsHalfU8B128();
    default:
      return bf16 ? StreamKernelsBf16Fp8() : StreamKernelsHalfFp8();
  }
}

bool Streams(const MarlinProblem& problem) {
  return StreamServes(problem.m, problem.group, problem.per_channel != 0);
}

void RunStream(const char* op, const MarlinProblem& problem, void* c, void* memory,
               cudaStream_t stream) {
  const StreamPlan plan =
      MakeStreamPlan(problem.m, problem.n, problem.k, problem.type, LimitsOf(op));
  const MarlinRows rows = PrepareRows(op, problem, memory, stream);
  StreamParams params{};
  params.a = rows.a;
  params.lda = rows.lda;
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
  params.stage_bytes = plan.stage_bytes;
  void* arguments[] = {&params};
  LaunchHopper(op, StreamKernelsOf(problem)[plan.shape], plan.blocks, plan.threads, plan.cluster,
               plan.shared_bytes, arguments, stream);
}

}  // namespace

bool HopperServes(const char* op, const MarlinProblem& problem) {
  return cuda::CurrentDevice(op).capability == 90 && problem.g_idx == nullptr &&
         (Streams(problem) || WideServes(problem.m, problem.group, problem.per_channel != 0,
                                         problem.type, problem.dtype == VK_F16));
}

void RunHopper(const char* op, const MarlinProblem& problem, void* c, void* memory,
               cudaStream_t stream) {
  if (Streams(problem)) return RunStream(op, problem, c, memory, stream);
  RunWide(op, problem, c, memory, stream);
}

void LaunchHopper(const char* op, const void* kernel, int blocks, int threads, int cluster,
                  int shared_bytes, void** arguments, cudaStream_t stream) {
  cuda::CheckCuda(
      op, "reserving shared memory",
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  if (cudaLaunchKernelExC(&config, kernel, arguments) != cudaSuccess) cuda::CheckLaunch(op);
}

#else

bool HopperServes(const char*, const MarlinProblem&) { return false; }
void RunHopper(const char*, const MarlinProblem&, void*, void*, cudaStream_t) {}

#endif  // VK_WNA16_SM90

}  // namespace vk::wna16
