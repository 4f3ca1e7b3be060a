// The calls of CUDA's run time that host code makes, as HIP's.
#ifndef VLLM_KERNELS_ROCM_RUNTIME_H_
#define VLLM_KERNELS_ROCM_RUNTIME_H_

#include <hip/hip_runtime_api.h>

using cudaError_t = hipError_t;
using cudaStream_t = hipStream_t;
using cudaDeviceAttr = hipDeviceAttribute_t;
constexpr hipError_t cudaSuccess = hipSuccess;
constexpr hipError_t cudaErrorInvalidValue = hipErrorInvalidValue;
constexpr hipError_t cudaErrorMemoryAllocation = hipErrorOutOfMemory;
constexpr hipError_t cudaErrorNoKernelImageForDevice = hipErrorNoBinaryForGpu;
constexpr hipError_t cudaErrorInvalidDeviceFunction = hipErrorInvalidDeviceFunction;
constexpr auto cudaDevAttrComputeCapabilityMajor = hipDeviceAttributeComputeCapabilityMajor;
constexpr auto cudaDevAttrComputeCapabilityMinor = hipDeviceAttributeComputeCapabilityMinor;
constexpr auto cudaDevAttrMultiProcessorCount = hipDeviceAttributeMultiprocessorCount;
constexpr auto cudaDevAttrMaxSharedMemoryPerBlockOptin =
    hipDeviceAttributeMaxSharedMemoryPerBlock;  // there is nothing to opt in to
constexpr auto cudaDevAttrL2CacheSize = hipDeviceAttributeL2CacheSize;
constexpr auto cudaMemcpyDefault = hipMemcpyDefault;
constexpr auto cudaHostAllocMapped = hipHostMallocMapped;
constexpr auto cudaFuncAttributeMaxDynamicSharedMemorySize =
    hipFuncAttributeMaxDynamicSharedMemorySize;
constexpr auto cudaFuncAttributePreferredSharedMemoryCarveout =
    hipFuncAttributePreferredSharedMemoryCarveout;
constexpr int cudaSharedmemCarveoutMaxShared = 100;  // per cent; HIP has no name for it

inline const char* cudaGetErrorString(hipError_t error) { return hipGetErrorString(error); }
inline hipError_t cudaGetLastError() { return hipGetLastError(); }
inline hipError_t cudaGetDevice(int* index) { return hipGetDevice(index); }
inline hipError_t cudaGetDeviceCount(int* count) { return hipGetDeviceCount(count); }
inline hipError_t cudaDeviceGetAttribute(int* value, hipDeviceAttribute_t name, int index) {
  return hipDeviceGetAttribute(value, name, index);
}
inline hipError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, hipMemcpyKind kind,
                                  hipStream_t stream) {
  return hipMemcpyAsync(to, from, bytes, kind, stream);
}
inline hipError_t cudaMemsetAsync(void* to, int byte, size_t bytes, hipStream_t stream) {
  return hipMemsetAsync(to, byte, bytes, stream);
}
inline hipError_t cudaHostAlloc(void** host, size_t bytes, unsigned flags) {
  return hipHostMalloc(host, bytes, flags);
}
inline hipError_t cudaMemGetInfo(size_t* available, size_t* all) {
  return hipMemGetInfo(available, all);
}
inline hipError_t cudaFreeHost(void* host) { return hipHostFree(host); }
inline hipError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  return hipHostGetDevicePointer(device, host, flags);
}
inline hipError_t cudaFuncSetAttribute(const void* kernel, hipFuncAttribute name, int value) {
  return hipFuncSetAttribute(kernel, name, value);
}

// No AMD GPU starts a kernel before the one ahead of it has ended, and none has clusters.
struct cudaFuncAttributes {
  int ptxVersion;
};
inline hipError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  return hipSuccess;
}
enum cudaLaunchAttributeID {
  cudaLaunchAttributeProgrammaticStreamSerialization,
  cudaLaunchAttributeClusterDimension,
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  hipStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
inline hipError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                      void** arguments) {
  if (config->numAttrs != 0) return hipErrorInvalidConfiguration;
  return hipLaunchKernel(kernel, config->gridDim, config->blockDim, arguments,
                         config->dynamicSmemBytes, config->stream);
}
inline hipError_t cudaOccupancyMaxActiveClusters(int*, const void*, const cudaLaunchConfig_t*) {
  return hipErrorNotSupported;
}

#endif  // VLLM_KERNELS_ROCM_RUNTIME_H_
