#include "cuda/wna16/hopper_launch.h"

#include "cuda/common/launch.h"
#include "cuda/wna16/stream_plan.h"
#include "cuda/wna16/wide_plan.h"

namespace vk::wna16 {

#ifdef VK_WNA16_SM90

namespace {

bool Streams(const MarlinProblem& problem) {
  return StreamServes(problem.m, problem.group, problem.per_channel != 0);
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
