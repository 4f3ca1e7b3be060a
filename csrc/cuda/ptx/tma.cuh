// Bulk copies (TMA), which complete on an mbarrier (compute capability 9.0).
#ifndef VLLM_KERNELS_CUDA_PTX_TMA_CUH_
#define VLLM_KERNELS_CUDA_PTX_TMA_CUH_

#include <cuda.h>

#include <cstdint>

namespace vk::cuda::ptx {

// "prefetch", .tensormap: so that the first load of the map does not miss.
__device__ __forceinline__ void prefetch_tensormap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// "cp.async.bulk.tensor": the box of `map` at the coordinates (innermost first) to `shared`, zeros
// where it lies outside of the tensor.
__device__ __forceinline__ void tma_load_2d(uint32_t shared, const CUtensorMap* map,
                                            uint32_t barrier, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}
__device__ __forceinline__ void tma_load_3d(uint32_t shared, const CUtensorMap* map,
                                            uint32_t barrier, int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void tma_load_4d(uint32_t shared, const CUtensorMap* map,
                                            uint32_t barrier, int32_t x, int32_t y, int32_t z,
                                            int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// "cp.async.bulk": `bytes` bytes from `global` to `shared`; all three are multiples of 16.
__device__ __forceinline__ void bulk_copy_g2s(uint32_t shared, const void* global, int bytes,
                                              uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared),
      "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(barrier)
      : "memory");
}

// "cp.async.bulk.prefetch", to L2: a hint that `bytes` bytes will be wanted; both are multiples of
// 16. Older GPUs ignore it.
__device__ __forceinline__ void bulk_prefetch_l2(const void* global, int bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(global)),
               "r"(bytes)
               : "memory");
#else
  (void)global, (void)bytes;
#endif
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_TMA_CUH_
