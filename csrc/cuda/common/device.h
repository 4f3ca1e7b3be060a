// GPUs and their properties.
#ifndef VLLM_KERNELS_CUDA_COMMON_DEVICE_H_
#define VLLM_KERNELS_CUDA_COMMON_DEVICE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "core/status.h"

namespace vk::cuda {

// Raises a CUDA error as one sentence that names the op and what was tried.
inline void CheckCuda(const char* op, const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  Fail(error == cudaErrorMemoryAllocation ? VK_OUT_OF_MEMORY : VK_INTERNAL, "%s: %s failed: %s", op,
       what, cudaGetErrorString(error));
}

// Properties of a GPU that choose kernels and grids.
struct Device {
  int32_t index;
  int32_t capability;       // 10 * major + minor: 90 for 9.0
  int32_t multiprocessors;  // SMs
  int32_t shared_bytes;     // most that a block can opt in to
  int32_t l2_bytes;
};

constexpr int kMaxDevices = 64;

inline Device QueryDevice(const char* op, int index) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value;
    CheckCuda(op, "asking the GPU for its properties", cudaDeviceGetAttribute(&value, name, index));
    return value;
  };
  return {index,
          10 * attribute(cudaDevAttrComputeCapabilityMajor) +
              attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), attribute(cudaDevAttrL2CacheSize)};
}

// The calling thread's current device. All are asked once and then remembered: attributes cost
// about as much as a launch.
inline const Device& CurrentDevice(const char* op) {
  int index = 0;
  CheckCuda(op, "finding the current CUDA device", cudaGetDevice(&index));
  static const std::vector<Device> devices = [op] {
    int count = 0;
    CheckCuda(op, "counting the CUDA devices", cudaGetDeviceCount(&count));
    std::vector<Device> found;
    for (int i = 0; i < count && i < kMaxDevices; ++i) found.push_back(QueryDevice(op, i));
    return found;
  }();
  VK_CHECK(index < static_cast<int>(devices.size()), "%s: CUDA device %d, want less than %d", op,
           index, kMaxDevices);
  return devices[static_cast<size_t>(index)];
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_DEVICE_H_
