// Quantised values of float32 ones, as the engine's reference rounds them.
#ifndef VLLM_KERNELS_CUDA_COMMON_QUANTIZE_CUH_
#define VLLM_KERNELS_CUDA_COMMON_QUANTIZE_CUH_

#include <cfloat>

#include "cuda/common/dtype.cuh"
#include "cuda/ptx/arithmetic.cuh"

namespace vk::cuda {

// Lower bound of scales, so that a row of zeros has a finite inverse.
template <class Q>
__device__ __forceinline__ float MinScale() {
  return std::is_same_v<Q, int8_t> ? FLT_EPSILON : 1.0f / (kQuantMax<Q> * 512.0f);
}

// x / kQuantMax<Q>, correctly rounded where the quotient is not far below MinScale, in three steps
// instead of a division: see Divisor.
template <class Q>
__device__ __forceinline__ float OverQuantMax(float x) {
  constexpr float kInverse = 1.0f / kQuantMax<Q>;
  const float estimate = x * kInverse;
  const float quotient = fmaf(fmaf(estimate, kQuantMax<Q>, -x), -kInverse, estimate);
  return x > FLT_MAX ? x : quotient;
}

// The biased exponent of the least power of two that is not below `scale`, which is normal.
__device__ __forceinline__ uint32_t CeilExponent(float scale) {
  const uint32_t bits = __float_as_uint(scale);
  return (bits >> 23) + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
}

// 1 / x, correctly rounded, for x neither subnormal nor with such a reciprocal: the division's own
// steps without its tests for the rest.
__device__ __forceinline__ float Reciprocal(float x) {
  const float estimate = ptx::rcp_approx_ftz(x);
  return fmaf(estimate, fmaf(-x, estimate, 1.0f), estimate);
}

// x / scale, correctly rounded, for many x: the reciprocal is taken once, and one step of Newton's
// method puts the last bit right (Markstein, "Computation of elementary functions on the IBM RISC
// System/6000 processor", 1990). A true division costs more instructions than the rest of a
// quantising kernel has.
class Divisor {
 public:
  __device__ __forceinline__ explicit Divisor(float scale) : scale_(scale) {
    const float size = fabsf(scale);
    if (size > 1e-30f && size < 1e30f) {
      inverse_ = Reciprocal(scale);
      return;
    }
    // Intermediate results could over- or underflow: both sides are moved by a power of two.
    factor_ = size < 1.0f ? 0x1p64f : 0x1p-64f;
    scale_ *= factor_;
    inverse_ = 1.0f / scale_;
    // x * 0 is what x / infinity is; infinity * 0 would spoil its correction.
    if (size > FLT_MAX) scale_ = 1.0f;
  }

  // Whether the division of any |x| <= `most` needs no limit.
  __device__ __forceinline__ bool StaysFinite(float most) const {
    return factor_ == 1.0f && most < FLT_MAX && most * fabsf(inverse_) < FLT_MAX;
  }

  // `limit`: results beyond it saturate in the caller's type anyway; keeps an infinite x out of the
  // correction, where it would become a NaN.
  __device__ __forceinline__ float Quotient(float x, float limit) const {
    if (factor_ != 1.0f) x *= factor_;
    return Corrected(x, fminf(fmaxf(x * inverse_, -limit), limit));
  }

  // All of x. `bounded`: no quotient is infinite unless the scale comes of an infinite x.
  template <int N>
  __device__ __forceinline__ void Divide(float (&x)[N], float limit, bool bounded) const {
    if (factor_ != 1.0f) {
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] *= factor_;
    }
    if (bounded) {
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = Corrected(x[i], x[i] * inverse_);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        x[i] = Corrected(x[i], fminf(fmaxf(x[i] * inverse_, -limit), limit));
      }
    }
  }

 private:
  // The signs are such that a zero keeps that of x.
  __device__ __forceinline__ float Corrected(float x, float estimate) const {
    return fmaf(fmaf(estimate, scale_, -x), -inverse_, estimate);
  }

  float scale_, inverse_;
  float factor_ = 1.0f;  // of x
};

// float8: the quotient, as FBGEMM has it; int8: the product with the reciprocal.
template <class Q>
class Quantizer {
 public:
  __device__ __forceinline__ explicit Quantizer(float scale) : divisor_(scale) {}
  template <int N>
  __device__ __forceinline__ void operator()(float (&x)[N], bool bounded) const {
    divisor_.Divide(x, 2.0f * kQuantMax<Q>, bounded);
  }

 private:
  Divisor divisor_;
};

template <>
class Quantizer<int8_t> {
 public:
  __device__ __forceinline__ explicit Quantizer(float scale) : inverse_(1.0f / scale) {}
  template <int N>
  __device__ __forceinline__ void operator()(float (&x)[N], bool) const {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= inverse_;
  }

 private:
  float inverse_;
};

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_QUANTIZE_CUH_
