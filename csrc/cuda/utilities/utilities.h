// Host memory as the GPU sees it. No kernels: unified addressing is the driver's.
#ifndef VLLM_KERNELS_CUDA_UTILITIES_UTILITIES_H_
#define VLLM_KERNELS_CUDA_UTILITIES_UTILITIES_H_

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

}  // extern "C"

#endif  // VLLM_KERNELS_CUDA_UTILITIES_UTILITIES_H_
