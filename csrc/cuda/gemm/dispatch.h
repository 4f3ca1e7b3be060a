// Which kernel multiplies a problem.
#ifndef VLLM_KERNELS_CUDA_GEMM_DISPATCH_H_
#define VLLM_KERNELS_CUDA_GEMM_DISPATCH_H_

#include "cuda/gemm/problem.h"
#include "cuda/gemm/tiles.h"

namespace vk::cuda::gemm {

// Whether this library has kernels of that kind for GPUs of `capability`.
bool Serves(Kind kind, int64_t capability);

// Launches the kernel; VK_UNSUPPORTED where there is none for the GPU.
void Run(const Problem& problem);

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_DISPATCH_H_
