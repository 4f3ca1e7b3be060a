// Memory that other processes open.
#include <cstring>

#include "core/check.h"
#include "core/status.h"
#include "cuda/all_reduce/all_reduce.h"
#include "cuda/all_reduce/communicator.h"

using vk::cuda::CheckCuda;

extern "C" {

vk_status vk_cuda_allocate_shared_buffer(int64_t size, int64_t* address,
                                         uint8_t handle[VK_CUDA_IPC_HANDLE_BYTES]) {
  return vk::Guard([&] {
    const char* op = "allocate_shared_buffer_and_handle";
    VK_CHECK(address != nullptr && handle != nullptr, "%s: an address is null", op);
    VK_CHECK(size > 0, "%s: size is %lld, want at least 1 byte", op, static_cast<long long>(size));
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(size));
    if (error != cudaSuccess) cudaGetLastError();  // else the next launch would report it
    CheckCuda(op, "allocating a shared buffer", error);
    const auto keep = [&](const char* what, cudaError_t failed) {
      if (failed == cudaSuccess) return;
      cudaFree(memory);
      cudaGetLastError();
      CheckCuda(op, what, failed);
    };
    keep("clearing a shared buffer", cudaMemset(memory, 0, static_cast<size_t>(size)));
    keep("clearing a shared buffer", cudaDeviceSynchronize());
    cudaIpcMemHandle_t made;
    keep("sharing a buffer with other processes", cudaIpcGetMemHandle(&made, memory));
    std::memcpy(handle, &made, sizeof(made));
    *address = reinterpret_cast<int64_t>(memory);
  });
}

vk_status vk_cuda_free_shared_buffer(int64_t address) {
  return vk::Guard([&] {
    const cudaError_t error = cudaFree(reinterpret_cast<void*>(address));
    if (error != cudaSuccess) cudaGetLastError();
    CheckCuda("free_shared_buffer", "freeing a shared buffer", error);
  });
}

vk_status vk_cuda_open_mem_handle(const vk_tensor* mem_handle, int64_t* address) {
  return vk::Guard([&] {
    const char* op = "open_mem_handle";
    VK_CHECK(address != nullptr, "%s: an address is null", op);
    const vk::Arg arg(op, "mem_handle", mem_handle);
    arg.Dtype({VK_U8}).Dims(1).Size(0, VK_CUDA_IPC_HANDLE_BYTES).Contiguous();
    cudaIpcMemHandle_t handle;
    std::memcpy(&handle, mem_handle->data, sizeof(handle));
    void* memory = nullptr;
    const cudaError_t error = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) cudaGetLastError();
    CheckCuda(op, "opening another rank's memory", error);
    *address = reinterpret_cast<int64_t>(memory);
  });
}

}  // extern "C"
