#include "cuda/runtime/runtime.h"

#include <cuda_runtime.h>

#include <cstring>

#include "core/check.h"
#include "core/status.h"
#include "cuda/common/launch.h"

namespace {

constexpr char kOp[] = "get_cuda_view_from_cpu_tensor";

}  // namespace

extern "C" vk_status vk_cuda_mapped_address(void* host, void** device) {
  return vk::Guard([&] {
    VK_CHECK(host != nullptr && device != nullptr, "%s: an address is null", kOp);
    const cudaError_t error = cudaHostGetDevicePointer(device, host, 0);
    // Else the next launch would report it.
    if (error != cudaSuccess) cudaGetLastError();
    VK_CHECK(error != cudaErrorInvalidValue, "%s: the tensor's memory is not page-locked", kOp);
    vk::cuda::CheckCuda(kOp, "finding the GPU's address of host memory", error);
  });
}

extern "C" vk_status vk_cuda_copy_to_mapped(const void* source, int64_t bytes, void** host) {
  return vk::Guard([&] {
    VK_CHECK(source != nullptr && host != nullptr, "%s: an address is null", kOp);
    VK_CHECK(bytes > 0, "%s: %lld bytes, want at least 1", kOp, static_cast<long long>(bytes));
    vk::cuda::CheckCuda(kOp, "allocating page-locked memory",
                        cudaHostAlloc(host, static_cast<size_t>(bytes), cudaHostAllocMapped));
    std::memcpy(*host, source, static_cast<size_t>(bytes));
  });
}

extern "C" vk_status vk_cuda_release_mapped(void* host) {
  return vk::Guard(
      [&] { vk::cuda::CheckCuda(kOp, "freeing page-locked memory", cudaFreeHost(host)); });
}

extern "C" vk_status vk_cuda_device_attribute(const char* op, int64_t attribute, int64_t device,
                                              int64_t* value) {
  return vk::Guard([&] {
    VK_CHECK(value != nullptr, "%s: the address of the value is null", op);
    VK_CHECK(attribute >= 0 && attribute <= INT32_MAX,
             "%s: attribute is %lld, want a number of "
             "cudaDeviceAttr",
             op, static_cast<long long>(attribute));
    int index = 0, found = 0, devices = 0;
    vk::cuda::CheckCuda(op, "counting the GPUs", cudaGetDeviceCount(&devices));
    if (device < 0) {
      vk::cuda::CheckCuda(op, "finding the current CUDA device", cudaGetDevice(&index));
    } else {
      VK_CHECK(device < devices, "%s: device_id is %lld, want less than %d", op,
               static_cast<long long>(device), devices);
      index = static_cast<int>(device);
    }
    const cudaError_t error =
        cudaDeviceGetAttribute(&found, static_cast<cudaDeviceAttr>(attribute), index);
    // Else the next launch would report it.
    if (error != cudaSuccess) cudaGetLastError();
    VK_CHECK(error != cudaErrorInvalidValue, "%s: attribute %lld is none that CUDA knows", op,
             static_cast<long long>(attribute));
    vk::cuda::CheckCuda(op, "asking the GPU for its properties", error);
    *value = found;
  });
}

extern "C" vk_status vk_cuda_max_shared_memory(const char* op, int64_t device, int64_t* bytes) {
  return vk_cuda_device_attribute(op, cudaDevAttrMaxSharedMemoryPerBlockOptin, device, bytes);
}
