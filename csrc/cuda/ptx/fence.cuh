// Fences between proxies (compute capability 9.0).
#ifndef VLLM_KERNELS_CUDA_PTX_FENCE_CUH_
#define VLLM_KERNELS_CUDA_PTX_FENCE_CUH_

namespace vk::cuda::ptx {

// "fence.proxy.async": the thread's ordinary writes to shared memory so far are seen by the wgmma
// and bulk copies after it.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_FENCE_CUH_
