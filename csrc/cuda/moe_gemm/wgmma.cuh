// The instructions of the grouped product beyond cuda/common/hopper.cuh.
#ifndef VLLM_KERNELS_CUDA_MOE_GEMM_WGMMA_CUH_
#define VLLM_KERNELS_CUDA_MOE_GEMM_WGMMA_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/common/hopper.cuh"
#include "cuda/ptx/wgmma_registers.h"

namespace vk::cuda::moe_gemm {

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// clang-format off
#define VK_WGMMA_E4M3(n, count, da, db, scale)                                            \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " scale ", 0; "                             \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {"               \
               VK_REGS##count "}, " da ", " db ", p, 1, 1;}"                              \
               : VK_OUT##count(d) : "l"(desc_a), "l"(desc_b), "r"(add))
// clang-format on

// d (+)= A (64 x 32) . B (32 x kCount * 2), float8, both K-major; `add` 0: d is overwritten.
template <int kCount>
__device__ __forceinline__ void WgmmaFp8(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b,
                                         int add) {
  if constexpr (kCount == 8) {
    VK_WGMMA_E4M3(16, 8, "%8", "%9", "%10");
  } else if constexpr (kCount == 16) {
    VK_WGMMA_E4M3(32, 16, "%16", "%17", "%18");
  } else if constexpr (kCount == 32) {
    VK_WGMMA_E4M3(64, 32, "%32", "%33", "%34");
  } else if constexpr (kCount == 64) {
    VK_WGMMA_E4M3(128, 64, "%64", "%65", "%66");
  } else if constexpr (kCount == 96) {
    VK_WGMMA_E4M3(192, 96, "%96", "%97", "%98");
  } else {
    static_assert(kCount == 128, "instances in use");
    VK_WGMMA_E4M3(256, 128, "%128", "%129", "%130");
  }
}

// Four 8x8 matrices of 16-bit elements, transposed: lane i gives where column i % 8 of matrix i / 8
// is stored as a row of 16 bytes.
__device__ __forceinline__ void StoreMatricesTransposed(uint32_t address, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

// `low` in the low half.
template <class T>
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  uint32_t bits;
  if constexpr (std::is_same_v<T, BFloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  }
  return bits;
}

}  // namespace vk::cuda::moe_gemm
#endif  // VLLM_KERNELS_CUDA_MOE_GEMM_WGMMA_CUH_
