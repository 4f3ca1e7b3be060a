#include "cuda/wna16/common/launch.h"

#include "cuda/common/device.h"
#include "cuda/common/divide.h"
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

}  // namespace vk::cuda::wna16
