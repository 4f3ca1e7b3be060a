// Hopper's warpgroup products with A in registers (sm_90a), and what feeds their B.
#ifndef VLLM_KERNELS_CUDA_WNA16_LARGE_M_WGMMA_CUH_
#define VLLM_KERNELS_CUDA_WNA16_LARGE_M_WGMMA_CUH_

#include "cuda/ptx/wgmma_registers.h"
#include "cuda/wna16/common/bulk.cuh"
#include "cuda/wna16/common/dequant.cuh"

namespace vk::cuda::wna16 {

using cuda::CopyBox;
using cuda::KMajor;
using cuda::Pin;
using cuda::RegistersFewer;
using cuda::RegistersMore;
using cuda::WgmmaCommit;
using cuda::WgmmaFence;
using cuda::WgmmaWait;

// clang-format off
#define VK_WNA16_WGMMA(type, n, regs, ra, db, add, ...)                                   \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " add ", 0; "                                \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" regs   \
               "}, {" ra "}, " db ", p, 1, 1, 0;}"                                         \
               : __VA_ARGS__                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc), "r"(adds))
// clang-format on

// d (+)= A (64 x 16, registers) . B (16 x 2 * kCount, K-major); `adds` 0: d is overwritten.
template <class T, int kCount>
__device__ __forceinline__ void Wgmma(float (&d)[kCount], const uint32_t (&a)[4], uint64_t desc,
                                      int adds) {
  static_assert(kCount == 16 || kCount == 32 || kCount == 64, "instances in use");
  constexpr bool kBf16 = Magic<T>::kBase == Magic<Bf16Arithmetic>::kBase;
  if constexpr (kCount == 16 && kBf16) {
    VK_WNA16_WGMMA("bf16", 32, VK_REGS16, "%16, %17, %18, %19", "%20", "%21", VK_OUT16(d));
  } else if constexpr (kCount == 16) {
    VK_WNA16_WGMMA("f16", 32, VK_REGS16, "%16, %17, %18, %19", "%20", "%21", VK_OUT16(d));
  } else if constexpr (kCount == 32 && kBf16) {
    VK_WNA16_WGMMA("bf16", 64, VK_REGS32, "%32, %33, %34, %35", "%36", "%37", VK_OUT32(d));
  } else if constexpr (kCount == 32) {
    VK_WNA16_WGMMA("f16", 64, VK_REGS32, "%32, %33, %34, %35", "%36", "%37", VK_OUT32(d));
  } else if constexpr (kBf16) {
    VK_WNA16_WGMMA("bf16", 128, VK_REGS64, "%64, %65, %66, %67", "%68", "%69", VK_OUT64(d));
  } else {
    VK_WNA16_WGMMA("f16", 128, VK_REGS64, "%64, %65, %66, %67", "%68", "%69", VK_OUT64(d));
  }
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_LARGE_M_WGMMA_CUH_
