#include "cuda/wna16/common/launch.h"

#include "cuda/common/launch.h"
#include "cuda/wna16/common/permute.h"

namespace vk::cuda::wna16 {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

DeviceLimits LimitsOf(const char* op) {
  const Device& device = CurrentDevice(op);
  if (device.capability < 80) {
    Fail(VK_UNSUPPORTED, "%s: the GPU is %d.%d, want compute capability 8.0 or newer", op,
         device.capability / 10, device.capability % 10);
  }
  return {device.multiprocessors, device.shared_bytes};
}

int64_t CopyBytes(const Problem& problem) {
  if (!problem.copies_a) return 0;
  const int64_t bytes = static_cast<int64_t>(problem.m) * problem.k * 2;
  return RoundUp(bytes, kAlignment);
}

Activations PrepareActivations(const char* op, const Problem& problem, void* memory,
                               cudaStream_t stream) {
  if (!problem.copies_a) return {problem.a, problem.lda};
  PermuteColumns(op, memory, problem.a, problem.lda, problem.perm, problem.m, problem.k, stream);
  return {memory, problem.k};
}

void LaunchClusters(const char* op, const void* kernel, int blocks, int threads, int cluster,
                    int shared_bytes, void** arguments, cudaStream_t stream) {
  CheckCuda(
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
  if (cudaLaunchKernelExC(&config, kernel, arguments) != cudaSuccess) CheckLaunch(op);
}

}  // namespace vk::cuda::wna16
