// PTX of compute capability 9.0 that the streaming kernel is made of: barriers in shared memory
// that count the bytes of bulk copies, and shared memory across a cluster.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_BULK_CUH_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_BULK_CUH_

#include "cuda/common/hopper.cuh"
#include "cuda/wna16/common/ptx.cuh"

namespace vk::cuda::wna16 {

using cuda::BarrierArrive;
using cuda::BarrierExpect;
using cuda::BarrierInit;
using cuda::BarrierInitFence;
using cuda::BarrierWait;

// `bytes` and both addresses are multiples of 16.
__device__ __forceinline__ void CopyBulk(uint32_t shared, const void* global, int bytes,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(barrier)
      : "memory");
}

// Some of the block's threads, whole warps of them.
template <int kThreads>
__device__ __forceinline__ void SyncSome() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

__device__ __forceinline__ int ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

__device__ __forceinline__ int ClusterSize() {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}

__device__ __forceinline__ void ClusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void ClusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Where what lies at `shared` here lies in the block of that rank.
__device__ __forceinline__ uint32_t ClusterAddress(uint32_t shared, int rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}

__device__ __forceinline__ void ClusterStore(uint32_t address, const float4& value) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_BULK_CUH_
