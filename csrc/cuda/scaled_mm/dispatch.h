// Which kernel multiplies a problem.
#ifndef VLLM_KERNELS_CUDA_SCALED_MM_DISPATCH_H_
#define VLLM_KERNELS_CUDA_SCALED_MM_DISPATCH_H_

#include "cuda/scaled_mm/problem.h"
#include "cuda/scaled_mm/tiles.h"

namespace vk::cuda::scaled_mm {

// Whether this library has kernels of that kind for GPUs of `capability`.
bool Serves(Kind kind, int64_t capability);

// Launches the kernel; VK_UNSUPPORTED where there is none for the GPU.
void Run(const Problem& problem);

}  // namespace vk::cuda::scaled_mm
#endif  // VLLM_KERNELS_CUDA_SCALED_MM_DISPATCH_H_
