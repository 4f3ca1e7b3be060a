// Launches of kernels, and their errors.
#ifndef VLLM_KERNELS_CUDA_COMMON_LAUNCH_H_
#define VLLM_KERNELS_CUDA_COMMON_LAUNCH_H_

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "core/check.h"
#include "cuda/common/device.h"
#include "cuda/common/divide.h"

// Archs that this library was compiled for, as "7.5 8.0 9.0a 12.0+PTX"; the build system's.
#ifndef VK_CUDA_ARCHS
#define VK_CUDA_ARCHS "unknown archs"
#endif

namespace vk::cuda {

// After every launch. Does not wait for the kernel.
inline void CheckLaunch(const char* op, const char* what = "launching the kernel") {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    const int32_t capability = CurrentDevice(op).capability;
    Fail(VK_UNSUPPORTED, "%s: this library has kernels for %s, but the GPU is %d.%d", op,
         VK_CUDA_ARCHS, capability / 10, capability % 10);
  }
  CheckCuda(op, what, error);
}

struct LaunchConfig {
  dim3 grid, block;
  int64_t shared_bytes;  // dynamic
  cudaStream_t stream;
  bool pdl = false;    // the start may overlap the end of the kernel before, which is waited for
  dim3 cluster = {0};  // blocks of a cluster; 0: no clusters
  // Multiprocessors shall have the most shared memory, as for a kernel before or after this one
  // that needs it: dividing their memory anew takes microseconds.
  bool most_shared = false;
};

// A launch as the runtime wants it.
class RuntimeConfig {
 public:
  explicit RuntimeConfig(const LaunchConfig& launch) {
    config_.gridDim = launch.grid;
    config_.blockDim = launch.block;
    config_.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
    config_.stream = launch.stream;
    config_.attrs = attributes_;
    if (launch.pdl) {
      cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    if (launch.cluster.x > 0) {
      cudaLaunchAttribute& attribute = attributes_[config_.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {launch.cluster.x, launch.cluster.y, launch.cluster.z};
    }
  }
  RuntimeConfig(const RuntimeConfig&) = delete;
  RuntimeConfig& operator=(const RuntimeConfig&) = delete;

  const cudaLaunchConfig_t* get() const { return &config_; }

 private:
  cudaLaunchAttribute attributes_[2]{};
  cudaLaunchConfig_t config_{};
};

// More than 48 KiB of shared memory is an attribute of the kernel on the current device; setting it
// is cheap and legal while a graph is captured.
inline void ReserveShared(const char* op, const void* kernel, int64_t bytes) {
  if (bytes > 48 * 1024 && cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                static_cast<int>(bytes)) != cudaSuccess) {
    CheckLaunch(op, "reserving shared memory");
  }
}

// Launches with what <<<>>> has no words for: more than 48 KiB of shared memory, programmatic
// dependent launch, clusters.
inline void LaunchKernel(const char* op, const void* kernel, const LaunchConfig& launch,
                         void** arguments) {
  ReserveShared(op, kernel, launch.shared_bytes);
  if (launch.most_shared &&
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                           cudaSharedmemCarveoutMaxShared) != cudaSuccess) {
    CheckLaunch(op, "asking for shared memory");
  }
  const RuntimeConfig config(launch);
  if (cudaLaunchKernelExC(config.get(), kernel, arguments) != cudaSuccess) CheckLaunch(op);
}

// How many clusters of such a launch run at once on the current device.
inline int MaxActiveClusters(const char* op, const void* kernel, const LaunchConfig& launch) {
  ReserveShared(op, kernel, launch.shared_bytes);
  const RuntimeConfig config(launch);
  int clusters = 0;
  CheckCuda(op, "asking how many clusters run at once",
            cudaOccupancyMaxActiveClusters(&clusters, kernel, config.get()));
  return clusters;
}

// Arguments become the kernel's own types.
template <class... Parameters, class... Arguments>
void LaunchKernel(const char* op, void (*kernel)(Parameters...), const LaunchConfig& launch,
                  const Arguments&... arguments) {
  std::tuple<std::remove_const_t<Parameters>...> values{Parameters(arguments)...};
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {&value...};
        LaunchKernel(op, reinterpret_cast<const void*>(kernel), launch, pointers);
      },
      values);
}

// Whether the code of `kernel` that this device runs knows griddepcontrol: PTX for 8.0, compiled by
// a newer GPU's driver, does not wait. Asked once a device; the kernels of a library have the same
// archs.
inline bool HasGridDependencyControl(const char* op, const void* kernel) {
  static std::atomic<int> states[kMaxDevices];  // 0 unknown, 1 no, 2 yes
  const Device& device = CurrentDevice(op);
  int state = states[device.index].load(std::memory_order_relaxed);
  if (state == 0) {
    cudaFuncAttributes attributes{};
    const bool known = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess;
    if (!known) cudaGetLastError();  // the launch will say it
    state = known && device.capability >= 90 && attributes.ptxVersion >= 90 ? 2 : 1;
    states[device.index].store(state, std::memory_order_relaxed);
  }
  return state == 2;
}

// Programmatic dependent launch: `kernel` waits for the one before it (pdl.cuh), so that its start
// overlaps the end of that one.
template <class... Parameters, class... Arguments>
void LaunchPdl(const char* op, void (*kernel)(Parameters...), dim3 grid, int64_t threads,
               size_t shared, cudaStream_t stream, const Arguments&... arguments) {
  const bool pdl = HasGridDependencyControl(op, reinterpret_cast<const void*>(kernel));
  LaunchKernel(
      op, kernel,
      {grid, dim3(static_cast<unsigned>(threads)), static_cast<int64_t>(shared), stream, pdl},
      arguments...);
}

inline cudaStream_t AsStream(void* stream) { return static_cast<cudaStream_t>(stream); }

// Whether there is work for every thread that the GPU holds several times over: a thread then takes
// several vectors, whose loads are in flight together, else as few as there are.
inline bool FillsDevice(const char* op, int64_t vectors) {
  return vectors >= int64_t{8192} * CurrentDevice(op).multiprocessors;
}

// A grid's x dimension, which alone can be as long as 2^31 - 1.
inline unsigned GridX(const char* op, int64_t blocks) {
  VK_CHECK(blocks <= INT32_MAX, "%s: %lld blocks of work, want at most 2^31 - 1", op,
           static_cast<long long>(blocks));
  return static_cast<unsigned>(blocks);
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_LAUNCH_H_
