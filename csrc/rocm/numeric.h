// CUDA's functions of one thread: bits, arithmetic, memory, atomics.
#ifndef VLLM_KERNELS_ROCM_NUMERIC_H_
#define VLLM_KERNELS_ROCM_NUMERIC_H_

#include <cstdint>
#include <cstring>

#include "rocm/wave.h"

__device__ __forceinline__ float __uint_as_float(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
__device__ __forceinline__ uint32_t __float_as_uint(float x) {
  return __builtin_bit_cast(uint32_t, x);
}
__device__ __forceinline__ int __float_as_int(float x) { return __builtin_bit_cast(int, x); }

__device__ __forceinline__ int __popc(uint32_t bits) { return __builtin_popcount(bits); }
__device__ __forceinline__ int __ffs(int bits) { return __builtin_ffs(bits); }
__device__ __forceinline__ int __ffsll(long long bits) { return __builtin_ffsll(bits); }
__device__ __forceinline__ uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
// Of each byte: 0xff where a and b differ.
__device__ __forceinline__ uint32_t __vcmpne4(uint32_t a, uint32_t b) {
  uint32_t bits = a ^ b;
  bits |= bits >> 4 & 0x0f0f0f0fu;
  bits |= bits >> 2 & 0x33333333u;
  bits |= bits >> 1 & 0x55555555u;
  return (bits & 0x01010101u) * 0xffu;
}
__device__ __forceinline__ float __fdiv_rn(float a, float b) { return a / b; }

// Loads for which CUDA names a cache.
template <class T>
__device__ __forceinline__ T __ldg(const T* at) {
  return *at;
}
template <class T>
__device__ __forceinline__ T __ldcs(const T* at) {
  return *at;
}
// Past the caches that are not coherent: what other blocks have written.
template <class T>
__device__ __forceinline__ T __ldcg(const T* at) {
  return *const_cast<const volatile T*>(at);
}

__device__ __forceinline__ int atomicAdd(int* at, int value) {
  return vk::rocm::AtomicAdd(at, value);
}
__device__ __forceinline__ int atomicMax(int* at, int value) {
  return vk::rocm::AtomicMax(at, value);
}

namespace vk::rocm {

// e^-(a^2 / 2) with the square's rounding error put right: relative errors of a few 2^-24 also
// where the result is tiny.
__device__ __forceinline__ float Gaussian(float a) {
  const float square = a * a;
  const float error = __builtin_fmaf(a, a, -square);
  return __builtin_expf(-0.5f * square) * (1.0f - 0.5f * error);
}

}  // namespace vk::rocm

#endif  // VLLM_KERNELS_ROCM_NUMERIC_H_
