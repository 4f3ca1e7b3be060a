// Hopper's warpgroup matrix products of 16-bit elements (sm_90a). Shared memory holds panels of 64
// columns (128 bytes a row) in the 128-byte swizzle.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH_

#include <cuda.h>

#include <cstdint>
#include <type_traits>

#include "cuda/attention/ptx.cuh"
#include "cuda/common/hopper.cuh"
#include "cuda/ptx/wgmma_registers.h"

namespace vk::cuda::attention {

template <int kPanelBytes>
__device__ __forceinline__ uint64_t MnMajor(uint32_t address) {
  static_assert(kPanelBytes % 1024 == 0 && kPanelBytes < 1 << 18, "offset of the descriptor");
  return kSwizzle128 | kRowGroup | uint64_t{kPanelBytes >> 4} << 16 | (address & 0x3ffff) >> 4;
}

__device__ __forceinline__ void StoreSink(uint32_t address, float value) {
  asm volatile("st.volatile.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// clang-format off
#define VK_WGMMA_SS(type, n, count, da, db, scale)                                        \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " scale ", 0; "                             \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {"       \
               VK_REGS##count "}, " da ", " db ", p, 1, 1, 0, 0;}"                        \
               : VK_OUT##count(d) : "l"(desc_a), "l"(desc_b), "r"(add))
#define VK_WGMMA_RS(type, n, count, ra, db)                                               \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {"       \
               VK_REGS##count "}, {" ra "}, " db ", 1, 1, 1, 1;"                          \
               : VK_OUT##count(d) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b))
#define VK_WGMMA_TYPES(T, product, ...)                                                   \
  if constexpr (std::is_same_v<T, Half>) {                                                \
    product("f16", __VA_ARGS__);                                                          \
  } else {                                                                                \
    product("bf16", __VA_ARGS__);                                                         \
  }
// clang-format on

// d (+)= A (64 x 16, K-major) . B (16 x kCount * 2, K-major); `add` 0: d is overwritten.
template <class T, int kCount>
__device__ __forceinline__ void WgmmaShared(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b,
                                            int add) {
  static_assert(kCount == 32 || kCount == 64, "instances in use");
  if constexpr (kCount == 32) {
    VK_WGMMA_TYPES(T, VK_WGMMA_SS, 64, 32, "%32", "%33", "%34")
  } else {
    VK_WGMMA_TYPES(T, VK_WGMMA_SS, 128, 64, "%64", "%65", "%66")
  }
}

// d += A (64 x 16, registers) . B (16 x kCount * 2, MN-major)
template <class T, int kCount>
__device__ __forceinline__ void WgmmaRegisters(float (&d)[kCount], const uint32_t (&a)[4],
                                               uint64_t desc_b) {
  if constexpr (kCount == 32) {
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 64, 32, "%32, %33, %34, %35", "%36")
  } else if constexpr (kCount == 64) {
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 128, 64, "%64, %65, %66, %67", "%68")
  } else if constexpr (kCount == 96) {
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 192, 96, "%96, %97, %98, %99", "%100")
  } else {
    static_assert(kCount == 128, "instances in use");
    VK_WGMMA_TYPES(T, VK_WGMMA_RS, 256, 128, "%128, %129, %130, %131", "%132")
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH_
