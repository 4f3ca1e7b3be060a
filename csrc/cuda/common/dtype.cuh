// Element types of the kernels and their conversions; arithmetic is float32 throughout.
#ifndef VLLM_KERNELS_CUDA_COMMON_DTYPE_CUH_
#define VLLM_KERNELS_CUDA_COMMON_DTYPE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/abi.h"
#include "cuda/ptx/cvt.cuh"

namespace vk::cuda {

using BFloat16 = __nv_bfloat16;
using Half = __half;
using E4M3 = __nv_fp8_e4m3;
using E5M2 = __nv_fp8_e5m2;

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float ToFloat(Half x) { return __half2float(x); }
__device__ __forceinline__ float ToFloat(int8_t x) { return static_cast<float>(x); }
__device__ __forceinline__ float ToFloat(E4M3 x) { return static_cast<float>(x); }
__device__ __forceinline__ float ToFloat(E5M2 x) { return static_cast<float>(x); }

// Rounds to nearest, ties to even. The 8-bit types saturate; a NaN stays one, or gives 0 in int8.
template <class T>
__device__ __forceinline__ T FromFloat(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, Half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, int8_t>) {
    return static_cast<int8_t>(ptx::cvt_rni_sat_s8_f32(x));
  } else {
    constexpr __nv_fp8_interpretation_t kind = std::is_same_v<T, E4M3> ? __NV_E4M3 : __NV_E5M2;
    T value;
    value.__x = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, kind);
    return value;
  }
}

// `x` as it is after a store and a load of T.
template <class T>
__device__ __forceinline__ float RoundTo(float x) {
  return ToFloat(FromFloat<T>(x));
}

// By value: a reference to global memory would be copied byte by byte, in as many loads.
template <class To, class From>
__device__ __forceinline__ To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(to));
  return to;
}

// Two values of a 16-bit T, `low` in the low half, converted by one instruction.
template <class T>
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  if constexpr (std::is_same_v<T, Half>) {
    return BitCast<uint32_t>(__floats2half2_rn(low, high));
  } else {
    return BitCast<uint32_t>(__floats2bfloat162_rn(low, high));
  }
}

// Largest finite value of the quantised types.
template <class T>
inline constexpr float kQuantMax = 0.0f;
template <>
inline constexpr float kQuantMax<E4M3> = 448.0f;
template <>
inline constexpr float kQuantMax<E5M2> = 57344.0f;
template <>
inline constexpr float kQuantMax<int8_t> = 127.0f;

template <class T>
struct Type {
  using type = T;
};

// Calls body(Type<T>()) for the element type of a checked dtype; `other` types are the caller's.
template <class Body>
void DispatchFloating(int32_t dtype, const Body& body) {
  if (dtype == VK_F32) return body(Type<float>());
  if (dtype == VK_BF16) return body(Type<BFloat16>());
  return body(Type<Half>());
}

// float8_e4m3fn | int8
template <class Body>
void DispatchQuantized(int32_t dtype, const Body& body) {
  if (dtype == VK_I8) return body(Type<int8_t>());
  return body(Type<E4M3>());
}

// body(std::true_type()) or body(std::false_type())
template <class Body>
void DispatchBool(bool value, const Body& body) {
  if (value) return body(std::true_type());
  return body(std::false_type());
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_DTYPE_CUH_
