// OCP float8 as CUDA's header of this name has it: PyTorch's float8_e4m3fn and float8_e5m2. Bits
// are put together by integer operations, which are right on every GPU: gfx942's own conversions
// are of other formats (fnuz), which no op of these kernels takes.
#ifndef VLLM_KERNELS_ROCM_CUDA_FP8_H_
#define VLLM_KERNELS_ROCM_CUDA_FP8_H_

#include <cuda_runtime.h>

enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
using __nv_fp8_storage_t = uint8_t;
using __nv_fp8x2_storage_t = uint16_t;

namespace vk::rocm {

struct Float8 {
  int mantissa, bias;
  uint32_t largest;  // finite, without the sign
  uint32_t nan;
};
__device__ __forceinline__ constexpr Float8 FormatOf(__nv_fp8_interpretation_t kind) {
  return kind == __NV_E4M3 ? Float8{3, 7, 0x7e, 0x7f} : Float8{2, 15, 0x7b, 0x7f};
}

// To the nearest, ties to even; what is too large becomes the largest finite number.
__device__ __forceinline__ uint8_t ToFloat8(float x, Float8 format) {
  const uint32_t word = __float_as_uint(x), sign = word >> 24 & 0x80u, size = word & 0x7fffffffu;
  if (size > 0x7f800000u) return static_cast<uint8_t>(sign | format.nan);
  const int smallest = 1 - format.bias;  // exponent of the smallest normal number
  const int exponent = static_cast<int>(size >> 23) - 127;
  uint32_t bits;
  if (exponent < smallest) {
    // A multiple of the smallest subnormal number: adding 1.5 * 2^23 of these rounds.
    const float unit =
        __uint_as_float(static_cast<uint32_t>(smallest - format.mantissa + 127 + 23) << 23) * 1.5f;
    bits = __float_as_uint(__uint_as_float(size) + unit) & 0x3fffffu;
  } else {
    const int shift = 23 - format.mantissa;
    const uint32_t rounded = size + (1u << (shift - 1)) - 1 + (size >> shift & 1u);
    bits = (rounded >> shift) - (static_cast<uint32_t>(127 - format.bias) << format.mantissa);
    if (bits > format.largest) bits = format.largest;
  }
  return static_cast<uint8_t>(sign | bits);
}

__device__ __forceinline__ float FromFloat8(uint8_t byte, Float8 format) {
  const uint32_t sign = uint32_t{byte} << 24 & 0x80000000u, size = byte & 0x7fu;
  const uint32_t exponent = size >> format.mantissa;
  float x;
  if (exponent == 0) {
    x = static_cast<float>(size) *
        __uint_as_float(static_cast<uint32_t>(1 - format.bias - format.mantissa + 127) << 23);
  } else if (format.mantissa == 3 ? size == 0x7f : size >= 0x7c) {
    x = __uint_as_float(size == 0x7c ? 0x7f800000u : 0x7fc00000u);
  } else {
    x = __uint_as_float((size << (23 - format.mantissa)) +
                        (static_cast<uint32_t>(127 - format.bias) << 23));
  }
  return __uint_as_float(__float_as_uint(x) | sign);
}

}  // namespace vk::rocm

__device__ __forceinline__ __nv_fp8_storage_t
__nv_cvt_float_to_fp8(float x, __nv_saturation_t, __nv_fp8_interpretation_t kind) {
  return vk::rocm::ToFloat8(x, vk::rocm::FormatOf(kind));
}
__device__ __forceinline__ __nv_fp8x2_storage_t
__nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t, __nv_fp8_interpretation_t kind) {
  const vk::rocm::Float8 format = vk::rocm::FormatOf(kind);
  return static_cast<uint16_t>(vk::rocm::ToFloat8(x.x, format) | vk::rocm::ToFloat8(x.y, format)
                                                                     << 8);
}

struct __nv_fp8_e4m3 {
  uint8_t __x;
  __device__ __forceinline__ explicit operator float() const {
    return vk::rocm::FromFloat8(__x, vk::rocm::FormatOf(__NV_E4M3));
  }
};
struct __nv_fp8_e5m2 {
  uint8_t __x;
  __device__ __forceinline__ explicit operator float() const {
    return vk::rocm::FromFloat8(__x, vk::rocm::FormatOf(__NV_E5M2));
  }
};

#endif  // VLLM_KERNELS_ROCM_CUDA_FP8_H_
