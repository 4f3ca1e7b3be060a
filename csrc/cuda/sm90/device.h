// GPUs that run machine code for 9.0a.
#ifndef VLLM_KERNELS_CUDA_SM90_DEVICE_H_
#define VLLM_KERNELS_CUDA_SM90_DEVICE_H_

#include "cuda/common/launch.h"

namespace vk::cuda::sm90 {

// The current device, which is one of them.
inline const Device& CurrentHopper(const char* op) {
  const Device& device = CurrentDevice(op);
  if (device.capability != 90) {
    Fail(VK_UNSUPPORTED, "%s: this library has kernels for %s, but the GPU is %d.%d", op,
         VK_CUDA_ARCHS, device.capability / 10, device.capability % 10);
  }
  return device;
}

}  // namespace vk::cuda::sm90
#endif  // VLLM_KERNELS_CUDA_SM90_DEVICE_H_
