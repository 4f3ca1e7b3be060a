#include "cuda/utilities/utilities.h"

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
