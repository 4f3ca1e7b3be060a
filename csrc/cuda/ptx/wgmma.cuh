// Asynchronous matrix products of a warpgroup (compute capability 9.0a).
#ifndef VLLM_KERNELS_CUDA_PTX_WGMMA_CUH_
#define VLLM_KERNELS_CUDA_PTX_WGMMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "cuda/ptx/wgmma_registers.h"

namespace vk::cuda::ptx {

// "wgmma.fence": before the first product, and where registers of one were written since.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// "wgmma.commit_group": the products since the last commit become a group.
__device__ __forceinline__ void wgmma_commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// "wgmma.wait_group": until at most `kPending` of the latest groups are under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// CUTLASS's name: no instruction, but the compiler moves no access to the registers over it. Around
// products that run, which the compiler does not know to use them.
template <int kCount>
__device__ __forceinline__ void warpgroup_fence_operand(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// Which dimension of a matrix in shared memory is contiguous: the summed one (K) or the other.
enum class Major { kK, kMn };

// clang-format off
// `product(..., n, count, numbers of the operands after d)` for the kCount of the template.
#define VK_WGMMA(product, ...)                                                                 \
  if constexpr (kCount == 8) {                                                                 \
    product(__VA_ARGS__, 16, 8, "%8", "%9", "%10", "%11", "%12", "%13");                       \
  } else if constexpr (kCount == 16) {                                                         \
    product(__VA_ARGS__, 32, 16, "%16", "%17", "%18", "%19", "%20", "%21");                    \
  } else if constexpr (kCount == 32) {                                                         \
    product(__VA_ARGS__, 64, 32, "%32", "%33", "%34", "%35", "%36", "%37");                    \
  } else if constexpr (kCount == 64) {                                                         \
    product(__VA_ARGS__, 128, 64, "%64", "%65", "%66", "%67", "%68", "%69");                   \
  } else if constexpr (kCount == 96) {                                                         \
    product(__VA_ARGS__, 192, 96, "%96", "%97", "%98", "%99", "%100", "%101");                 \
  } else {                                                                                     \
    static_assert(kCount == 128, "instances in use");                                          \
    product(__VA_ARGS__, 256, 128, "%128", "%129", "%130", "%131", "%132", "%133");            \
  }
#define VK_WGMMA_SS(kind, major, n, count, x0, x1, x2, ...)                                    \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " x2 ", 0; "                                     \
               "wgmma.mma_async.sync.aligned.m64n" #n kind " {" VK_REGS##count "}, "           \
               x0 ", " x1 ", p, 1, 1" major ";}"                                               \
               : VK_OUT##count(d) : "l"(desc_a), "l"(desc_b), "r"(scale_d))
#define VK_WGMMA_RS(kind, major, n, count, x0, x1, x2, x3, x4, x5)                             \
  asm volatile("{.reg .pred p; setp.ne.b32 p, " x5 ", 0; "                                     \
               "wgmma.mma_async.sync.aligned.m64n" #n kind " {" VK_REGS##count "}, {"          \
               x0 ", " x1 ", " x2 ", " x3 "}, " x4 ", p, 1, 1" major ";}"                      \
               : VK_OUT##count(d)                                                              \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b), "r"(scale_d))
// clang-format on

// "wgmma.mma_async": d (+)= A (64 x 32 bytes) . B (32 bytes x kCount * 2), both in shared memory
// and K-major, of T: __half, __nv_bfloat16 or __nv_fp8_e4m3. `scale_d` 0: d is overwritten.
template <class T, int kCount>
__device__ __forceinline__ void wgmma_ss(float (&d)[kCount], uint64_t desc_a, uint64_t desc_b,
                                         int scale_d) {
  if constexpr (std::is_same_v<T, __half>) {
    VK_WGMMA(VK_WGMMA_SS, "k16.f32.f16.f16", ", 0, 0")
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    VK_WGMMA(VK_WGMMA_SS, "k16.f32.bf16.bf16", ", 0, 0")
  } else {
    static_assert(std::is_same_v<T, __nv_fp8_e4m3>, "instances in use");
    VK_WGMMA(VK_WGMMA_SS, "k32.f32.e4m3.e4m3", "")
  }
}

// The same with A (64 x 32 bytes) in registers. Those of float8 are K-major.
template <class T, Major kMajorB, int kCount>
__device__ __forceinline__ void wgmma_rs(float (&d)[kCount], const uint32_t (&a)[4],
                                         uint64_t desc_b, int scale_d) {
  if constexpr (std::is_same_v<T, __nv_fp8_e4m3>) {
    static_assert(kMajorB == Major::kK);
    VK_WGMMA(VK_WGMMA_RS, "k32.f32.e4m3.e4m3", "")
  } else if constexpr (std::is_same_v<T, __half> && kMajorB == Major::kK) {
    VK_WGMMA(VK_WGMMA_RS, "k16.f32.f16.f16", ", 0")
  } else if constexpr (std::is_same_v<T, __half>) {
    VK_WGMMA(VK_WGMMA_RS, "k16.f32.f16.f16", ", 1")
  } else {
    static_assert(std::is_same_v<T, __nv_bfloat16>, "instances in use");
    if constexpr (kMajorB == Major::kK) {
      VK_WGMMA(VK_WGMMA_RS, "k16.f32.bf16.bf16", ", 0")
    } else {
      VK_WGMMA(VK_WGMMA_RS, "k16.f32.bf16.bf16", ", 1")
    }
  }
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_WGMMA_CUH_
