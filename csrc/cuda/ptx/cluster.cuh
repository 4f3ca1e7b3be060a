// Blocks of a cluster and their shared memory (compute capability 9.0).
#ifndef VLLM_KERNELS_CUDA_PTX_CLUSTER_CUH_
#define VLLM_KERNELS_CUDA_PTX_CLUSTER_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "%cluster_ctarank": the block's number in its cluster.
__device__ __forceinline__ int cluster_ctarank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// "%cluster_nctarank": the number of blocks in the cluster.
__device__ __forceinline__ int cluster_nctarank() {
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
}

// "barrier.cluster", for all threads of the cluster: writes before arrive are seen after wait.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// "mapa": the address, in the .shared::cluster window, of `shared` in the block of that rank.
__device__ __forceinline__ uint32_t mapa(uint32_t shared, int rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}

// "st", .shared::cluster, to an address that mapa() returned.
__device__ __forceinline__ void st_shared_cluster(uint32_t address, const float4& value) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x),
               "f"(value.y), "f"(value.z), "f"(value.w)
               : "memory");
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_CLUSTER_CUH_
