// Quantised values of float32 ones, as the engine's reference rounds them.
#ifndef VLLM_KERNELS_CUDA_COMMON_QUANTIZE_CUH_
#define VLLM_KERNELS_CUDA_COMMON_QUANTIZE_CUH_

#include <cfloat>

#include "cuda/common/dtype.cuh"

namespace vk::cuda {

// Below these no scale goes, so that a row of zeros has a finite inverse.
template <class Q>
__device__ __forceinline__ float MinScale() {
  return std::is_same_v<Q, int8_t> ? FLT_EPSILON : 1.0f / (kQuantMax<Q> * 512.0f);
}

// x / scale, correctly rounded, for many x: the reciprocal is taken once, and one step of Newton's
// method puts the last bit right (Markstein, "Computation of elementary functions on the IBM RISC
// System/6000 processor", 1990). A true division costs more instructions than the rest of a
// quantising kernel has.
class Divisor {
 public:
  __device__ __forceinline__ explicit Divisor(float scale)
      : scale_(scale),
        inverse_(1.0f / scale),
        plain_(fabsf(scale) > 1e-30f && fabsf(scale) < 1e30f) {}

  // `limit`: results beyond it saturate in the caller's type anyway; keeps an infinite x out of the
  // correction, where it would become a NaN.
  __device__ __forceinline__ float Quotient(float x, float limit) const {
    if (!plain_) return __fdiv_rn(x, scale_);
    const float estimate = fminf(fmaxf(x * inverse_, -limit), limit);
    // The sum of zeros is +0, whatever the sign of x.
    return copysignf(fmaf(fmaf(-estimate, scale_, x), inverse_, estimate), estimate);
  }

 private:
  float scale_, inverse_;
  bool plain_;  // no intermediate result can over- or underflow
};

// float8: the quotient, as FBGEMM has it; int8: the product with the reciprocal.
template <class Q>
class Quantizer {
 public:
  __device__ __forceinline__ explicit Quantizer(float scale) : divisor_(scale) {}
  __device__ __forceinline__ float operator()(float x) const {
    return divisor_.Quotient(x, 2.0f * kQuantMax<Q>);
  }

 private:
  Divisor divisor_;
};

template <>
class Quantizer<int8_t> {
 public:
  __device__ __forceinline__ explicit Quantizer(float scale) : inverse_(1.0f / scale) {}
  __device__ __forceinline__ float operator()(float x) const { return x * inverse_; }

 private:
  float inverse_;
};

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_QUANTIZE_CUH_
