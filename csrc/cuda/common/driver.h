// The driver's own functions, found at run time: the libraries do not link libcuda.
#ifndef VLLM_KERNELS_CUDA_COMMON_DRIVER_H_
#define VLLM_KERNELS_CUDA_COMMON_DRIVER_H_

#include <cuda_runtime.h>

#include "cuda/common/device.h"

namespace vk::cuda {

// `name` as it was in that version of the driver (12000 for CUDA 12.0); Function: its PFN_ type.
template <class Function>
Function FindDriverFunction(const char* op, const char* name, unsigned version) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &result);
#else
  static_cast<void>(version);
  const cudaError_t error = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &result);
#endif
  CheckCuda(op, "finding a function of the driver", error);
  if (result != cudaDriverEntryPointSuccess) {
    Fail(VK_UNSUPPORTED, "%s: the driver has no %s, want CUDA %u.%u or newer", op, name,
         version / 1000, version % 1000 / 10);
  }
  return reinterpret_cast<Function>(function);
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_DRIVER_H_
