// The host's side of a launch: the device's properties, launch errors, and where rows lie.
#ifndef VLLM_KERNELS_CUDA_COMMON_LAUNCH_H_
#define VLLM_KERNELS_CUDA_COMMON_LAUNCH_H_

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

#include "core/check.h"
#include "core/status.h"

// Archs that this library was compiled for, as "7.5 8.0 9.0a 12.0+PTX"; the build system's.
#ifndef VK_CUDA_ARCHS
#define VK_CUDA_ARCHS "unknown archs"
#endif

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

// The calling thread's current device. Asked once a device and then remembered: attributes cost
// about as much as a launch.
inline const Device& CurrentDevice(const char* op) {
  constexpr int kMaxDevices = 64;
  static Device devices[kMaxDevices];
  static std::atomic<int> states[kMaxDevices];  // 0 unknown, 1 being written, 2 known
  int index = 0;
  CheckCuda(op, "finding the current CUDA device", cudaGetDevice(&index));
  const auto ask = [&] {
    int major, minor, count, shared, l2;
    const auto attribute = [&](int* value, cudaDeviceAttr name) {
      CheckCuda(op, "asking the GPU for its properties",
                cudaDeviceGetAttribute(value, name, index));
    };
    attribute(&major, cudaDevAttrComputeCapabilityMajor);
    attribute(&minor, cudaDevAttrComputeCapabilityMinor);
    attribute(&count, cudaDevAttrMultiProcessorCount);
    attribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    attribute(&l2, cudaDevAttrL2CacheSize);
    return Device{index, 10 * major + minor, count, shared, l2};
  };
  VK_CHECK(index < kMaxDevices, "%s: CUDA device %d, want less than %d", op, index, kMaxDevices);
  if (states[index].load(std::memory_order_acquire) != 2) {
    const Device found = ask();
    int unknown = 0;
    if (states[index].compare_exchange_strong(unknown, 1)) {
      devices[index] = found;
      states[index].store(2, std::memory_order_release);
    } else {
      while (states[index].load(std::memory_order_acquire) != 2) {
      }
    }
  }
  return devices[index];
}

// After every launch. Does not wait for the kernel.
inline void CheckLaunch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    const int32_t capability = CurrentDevice(op).capability;
    Fail(VK_UNSUPPORTED, "%s: this library has kernels for %s, but the GPU is %d.%d", op,
         VK_CUDA_ARCHS, capability / 10, capability % 10);
  }
  CheckCuda(op, "launching the kernel", error);
}

// Whether the code of `kernel` that this device runs knows griddepcontrol: PTX for 8.0, compiled by
// a newer GPU's driver, does not wait. Asked once a device; the kernels of a library have the same
// archs.
inline bool HasGridDependencyControl(const char* op, const void* kernel) {
  constexpr int kMaxDevices = 64;
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

// Launches `kernel`, which waits for it (pdl.cuh), so that its start overlaps the end of
// the kernel before it.
template <class... Parameters, class... Arguments>
void LaunchPdl(const char* op, void (*kernel)(Parameters...), dim3 grid, int64_t threads,
               size_t shared, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = HasGridDependencyControl(op, reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  if (cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...) != cudaSuccess) CheckLaunch(op);
}

inline cudaStream_t AsStream(void* stream) { return static_cast<cudaStream_t>(stream); }

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether there is work for every thread that the GPU holds several times over: a thread then takes
// several pieces, whose loads are in flight together, else as few as there are.
inline bool FillsDevice(const char* op, int64_t pieces) {
  return pieces >= int64_t{8192} * CurrentDevice(op).multiprocessors;
}

// A grid's x dimension, which alone can be as long as 2^31 - 1.
inline unsigned GridX(const char* op, int64_t blocks) {
  VK_CHECK(blocks <= INT32_MAX, "%s: %lld blocks of work, want at most 2^31 - 1", op,
           static_cast<long long>(blocks));
  return static_cast<unsigned>(blocks);
}

// Whether every row of `tensor` starts at, and strides are, multiples of `bytes` bytes.
inline bool RowsAligned(const vk_tensor& tensor, int64_t bytes) {
  const int64_t item = DtypeSize(tensor.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % bytes == 0;
  for (int32_t dim = 0; dim < tensor.ndim - 1; ++dim) {
    aligned = aligned && (tensor.shape[dim] <= 1 || tensor.stride[dim] * item % bytes == 0);
  }
  return aligned;
}

// Where the rows of a tensor (its last dimension) start; passed to kernels by value. Leading
// dimensions of any strides are allowed; those that collapse into one cost no division.
struct RowMap {
  int32_t dims = 0;  // of leading dimensions that remain after collapsing; the last is dims - 1
  int64_t shape[VK_MAX_DIMS] = {};
  int64_t stride[VK_MAX_DIMS] = {};

  RowMap() = default;
  explicit RowMap(const vk_tensor& tensor) {
    for (int32_t dim = 0; dim < tensor.ndim - 1; ++dim) {
      if (tensor.shape[dim] == 1) continue;
      if (dims > 0 && stride[dims - 1] == tensor.stride[dim] * tensor.shape[dim]) {
        shape[dims - 1] *= tensor.shape[dim];
        stride[dims - 1] = tensor.stride[dim];
      } else {
        shape[dims] = tensor.shape[dim];
        stride[dims++] = tensor.stride[dim];
      }
    }
  }

#ifdef __CUDACC__
  // In elements. Not unrolled: a division is long, and the members of a __grid_constant__ argument
  // can be indexed where they are.
  __device__ __forceinline__ int64_t Offset(int64_t row) const {
    int64_t offset = 0;
#pragma unroll 1
    for (int32_t dim = dims - 1; dim > 0; --dim) {
      const int64_t rest = row / shape[dim];
      offset += (row - rest * shape[dim]) * stride[dim];
      row = rest;
    }
    return offset + row * stride[0];
  }
#endif
};

// Whether all rows at `data`, of elements of one byte, start at multiples of `bytes` bytes.
inline bool ByteRowsAligned(const void* data, const RowMap& rows, int64_t bytes) {
  bool aligned = reinterpret_cast<uintptr_t>(data) % bytes == 0;
  for (int32_t dim = 0; dim < rows.dims; ++dim) aligned = aligned && rows.stride[dim] % bytes == 0;
  return aligned;
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_LAUNCH_H_
