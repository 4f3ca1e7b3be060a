// Approximations, and bit operations of three operands.
#ifndef VLLM_KERNELS_CUDA_PTX_ARITHMETIC_CUH_
#define VLLM_KERNELS_CUDA_PTX_ARITHMETIC_CUH_

#include <cstdint>

namespace vk::cuda::ptx {

// "ex2.approx.ftz.f32": 2^x, 2 ulp; subnormal numbers are 0.
__device__ __forceinline__ float ex2_approx_ftz(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// "rcp.approx.ftz.f32": 1 / x, 1 ulp; subnormal numbers are 0.
__device__ __forceinline__ float rcp_approx_ftz(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// "lop3": the function of three bits with the truth table kTable, where a is 0xf0, b 0xcc, c 0xaa.
template <int kTable, uint32_t kB, uint32_t kC>
__device__ __forceinline__ uint32_t lop3(uint32_t a) {
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(out) : "r"(a), "n"(kB), "n"(kC), "n"(kTable));
  return out;
}

}  // namespace vk::cuda::ptx
#endif  // VLLM_KERNELS_CUDA_PTX_ARITHMETIC_CUH_
