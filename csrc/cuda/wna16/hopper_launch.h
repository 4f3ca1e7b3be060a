// Products on GPUs of compute capability 9.0: stream_kernel.cuh for few tokens, wide_kernel.cuh for
// more.
#ifndef VLLM_KERNELS_CUDA_WNA16_HOPPER_LAUNCH_H_
#define VLLM_KERNELS_CUDA_WNA16_HOPPER_LAUNCH_H_

#include <cuda_runtime.h>

#include "cuda/wna16/marlin_problem.h"

namespace vk::wna16 {

// Whether this build has a kernel for the problem that the current GPU runs.
bool HopperServes(const char* op, const MarlinProblem& problem);

// `memory`: CopyBytes(problem), for rows that must be gathered or aligned first.
void RunHopper(const char* op, const MarlinProblem& problem, void* c, void* memory,
               cudaStream_t stream);

void RunStream(const char* op, const MarlinProblem& problem, void* c, void* memory,
               cudaStream_t stream);
void RunWide(const char* op, const MarlinProblem& problem, void* c, void* memory,
             cudaStream_t stream);

// A kernel of clusters that may start before the one before it has ended.
void LaunchHopper(const char* op, const void* kernel, int blocks, int threads, int cluster,
                  int shared_bytes, void** arguments, cudaStream_t stream);

}  // namespace vk::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_HOPPER_LAUNCH_H_
