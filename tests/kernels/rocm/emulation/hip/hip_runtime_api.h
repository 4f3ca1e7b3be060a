// HIP's run time of an emulated GPU, whose memory is the host's.
#ifndef VLLM_KERNELS_TESTS_HIP_RUNTIME_API_H_
#define VLLM_KERNELS_TESTS_HIP_RUNTIME_API_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

enum hipError_t {
  hipSuccess,
  hipErrorInvalidValue,
  hipErrorOutOfMemory,
  hipErrorNoBinaryForGpu,
  hipErrorInvalidDeviceFunction,
  hipErrorInvalidConfiguration,
  hipErrorNotSupported,
};
enum hipDeviceAttribute_t {
  hipDeviceAttributeComputeCapabilityMajor,
  hipDeviceAttributeComputeCapabilityMinor,
  hipDeviceAttributeMultiprocessorCount,
  hipDeviceAttributeMaxSharedMemoryPerBlock,
  hipDeviceAttributeL2CacheSize,
};
enum hipMemcpyKind { hipMemcpyDefault };
enum hipFuncAttribute {
  hipFuncAttributeMaxDynamicSharedMemorySize,
  hipFuncAttributePreferredSharedMemoryCarveout
};
constexpr unsigned hipHostMallocMapped = 2;
using hipStream_t = void*;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

inline const char* hipGetErrorString(hipError_t) { return "emulated"; }
inline hipError_t hipGetLastError() { return hipSuccess; }
inline hipError_t hipGetDevice(int* index) { return *index = 0, hipSuccess; }
inline hipError_t hipGetDeviceCount(int* count) { return *count = 1, hipSuccess; }
inline hipError_t hipDeviceGetAttribute(int* value, hipDeviceAttribute_t name, int) {
  constexpr int kValues[] = {9, 4, 4, 65536, 4 << 20};
  return *value = kValues[name], hipSuccess;
}
inline hipError_t hipMemcpyAsync(void* to, const void* from, size_t bytes, hipMemcpyKind, void*) {
  return std::memcpy(to, from, bytes), hipSuccess;
}
inline hipError_t hipMemsetAsync(void* to, int byte, size_t bytes, void*) {
  return std::memset(to, byte, bytes), hipSuccess;
}
inline hipError_t hipMemGetInfo(size_t* available, size_t* all) {
  return *available = *all = size_t{1} << 36, hipSuccess;
}
inline hipError_t hipHostMalloc(void** host, size_t bytes, unsigned) {
  return *host = ::operator new(bytes), hipSuccess;
}
inline hipError_t hipHostFree(void* host) { return ::operator delete(host), hipSuccess; }
inline hipError_t hipHostGetDevicePointer(void** device, void* host, unsigned) {
  return *device = host, hipSuccess;
}
inline hipError_t hipFuncSetAttribute(const void*, hipFuncAttribute, int) { return hipSuccess; }
// Not used: the emulation has a launch of its own (rocm/qualifiers.h).
inline hipError_t hipLaunchKernel(const void*, dim3, dim3, void**, size_t, void*) {
  return hipErrorNotSupported;
}

#endif  // VLLM_KERNELS_TESTS_HIP_RUNTIME_API_H_
