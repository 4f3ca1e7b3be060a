// Arithmetic of the 16-bit float types, pairs of which lie in 32-bit registers.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_ARITHMETIC_CUH_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_ARITHMETIC_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/ptx/arithmetic.cuh"
#include "cuda/ptx/mma.cuh"

namespace vk::cuda::wna16 {

struct Bf16Arithmetic {
  using Element = __nv_bfloat16;

  static __device__ __forceinline__ uint32_t Sub2(uint32_t x, uint32_t y) {
    const __nv_bfloat162 z =
        __hsub2(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ uint32_t Mul2(uint32_t x, uint32_t y) {
    const __nv_bfloat162 z =
        __hmul2(reinterpret_cast<__nv_bfloat162&>(x), reinterpret_cast<__nv_bfloat162&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ float ToFloat(uint16_t x) {
    return __uint_as_float(static_cast<uint32_t>(x) << 16);
  }
  static __device__ __forceinline__ uint16_t FromFloat(float x) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  }
};

// Of results that get float32 scales of tokens and channels before they are rounded.
struct ScaledBf16Arithmetic : Bf16Arithmetic {};
template <class T>
inline constexpr bool kScalesResult = std::is_same_v<T, ScaledBf16Arithmetic>;

struct Fp16Arithmetic {
  using Element = __half;

  static __device__ __forceinline__ uint32_t Sub2(uint32_t x, uint32_t y) {
    const __half2 z = __hsub2(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ uint32_t Mul2(uint32_t x, uint32_t y) {
    const __half2 z = __hmul2(reinterpret_cast<__half2&>(x), reinterpret_cast<__half2&>(y));
    return reinterpret_cast<const uint32_t&>(z);
  }
  static __device__ __forceinline__ float ToFloat(uint16_t x) {
    return __half2float(__ushort_as_half(x));
  }
  static __device__ __forceinline__ uint16_t FromFloat(float x) {
    return __half_as_ushort(__float2half_rn(x));
  }
  static __device__ __forceinline__ uint32_t FromFloats(float low, float high) {
    const __half2 z = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(z);
  }
};

// d = a (16 x 16, rows) . b (16 x 8, columns) + c
template <class T>
__device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                    const float (&c)[4]) {
  ptx::mma_m16n8k16<typename T::Element>(d, a, b[0], b[1], c);
}

// (x & kMask) | kBits as one instruction.
template <uint32_t kMask, uint32_t kBits>
__device__ __forceinline__ uint32_t AndOr(uint32_t x) {
  return ptx::lop3<(0xf0 & 0xcc) | 0xaa, kMask, kBits>(x);
}

// (x & kMask) ^ kBits.
template <uint32_t kMask, uint32_t kBits>
__device__ __forceinline__ uint32_t AndXor(uint32_t x) {
  return ptx::lop3<(0xf0 & 0xcc) ^ 0xaa, kMask, kBits>(x);
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_ARITHMETIC_CUH_
