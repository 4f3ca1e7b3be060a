// Operands of the products: conversions of queries, keys and values to their type.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_OPERAND_CUH_
#define VLLM_KERNELS_CUDA_ATTENTION_OPERAND_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/common/dtype.cuh"
#include "cuda/ptx/cvt.cuh"

namespace vk::cuda::attention {

// Type of the products' operands: float16 where the cache is float8, which it holds exactly and
// which takes one instruction for two values; bfloat16 takes four.
template <class T, class KV>
using Operand = std::conditional_t<sizeof(KV) == 1, Half, T>;

// A pair of T as a pair of operands; what float16 cannot hold becomes its largest number.
template <class T, class To>
__device__ __forceinline__ uint32_t ToOperands(uint32_t pair) {
  if constexpr (std::is_same_v<T, To>) {
    return pair;
  } else {
    static_assert(std::is_same_v<T, BFloat16> && std::is_same_v<To, Half>, "conversion in use");
    float values[2] = {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
#pragma unroll
    for (float& value : values) {
      if (fabsf(value) > 65504.0f && !isinf(value)) value = copysignf(65504.0f, value);
    }
    return PackPair<To>(values[0], values[1]);
  }
}

// Two float8_e4m3fn (the low 16 bits) to two T; exact, as both formats hold every such value.
template <class T>
__device__ __forceinline__ uint32_t FromFp8(uint32_t pair) {
#if __CUDA_ARCH__ >= 890
  const uint32_t halves = ptx::cvt_rn_f16x2_e4m3x2(static_cast<uint16_t>(pair));
#else
  // The bits of e4m3 are those of a float16 2^8 times smaller, denormals included; NaN is 0x7f.
  const uint32_t spread = __byte_perm(pair, 0, 0x1404);
  const uint32_t bits = (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
  const __half2 scaled = __hmul2(BitCast<__half2>(bits), __float2half2_rn(256.f));
  uint32_t halves = BitCast<uint32_t>(scaled);
  if ((spread & 0x00007f00u) == 0x00007f00u) halves |= 0x00007fffu;
  if ((spread & 0x7f000000u) == 0x7f000000u) halves |= 0x7fff0000u;
#endif
  if constexpr (std::is_same_v<T, Half>) {
    return halves;
  } else {
    const float2 wide = __half22float2(BitCast<__half2>(halves));
    return PackPair<T>(wide.x, wide.y);
  }
}

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_OPERAND_CUH_
