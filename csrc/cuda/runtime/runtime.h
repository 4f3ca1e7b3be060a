// Host memory as the GPU sees it, and what the GPU says of itself. No kernels: unified addressing
// is the driver's.
#ifndef VLLM_KERNELS_CUDA_RUNTIME_RUNTIME_H_
#define VLLM_KERNELS_CUDA_RUNTIME_RUNTIME_H_

#include <cstdint>

#include "core/abi.h"

extern "C" {

// The address at which the current GPU reads page-locked host memory at `host`.
// VK_INVALID_ARGUMENT where the memory is not page-locked.
VK_EXPORT vk_status vk_cuda_mapped_address(void* host, void** device);

// Page-locked memory that the GPU can read, with a copy of `bytes` bytes at `source`.
// vk_cuda_release_mapped() gives it back. VK_OUT_OF_MEMORY.
VK_EXPORT vk_status vk_cuda_copy_to_mapped(const void* source, int64_t bytes, void** host);
VK_EXPORT vk_status vk_cuda_release_mapped(void* host);

// `*value` = attribute (a cudaDeviceAttr) of the GPU of that number; negative: the current one.
VK_EXPORT vk_status vk_cuda_device_attribute(const char* op, int64_t attribute, int64_t device,
                                             int64_t* value);
// The same of the shared memory, in bytes, that a block can opt in to.
VK_EXPORT vk_status vk_cuda_max_shared_memory(const char* op, int64_t device, int64_t* bytes);

}  // extern "C"

#endif  // VLLM_KERNELS_CUDA_RUNTIME_RUNTIME_H_
