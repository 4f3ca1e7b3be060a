// What the cache kernels share: conversion to and from a cache's format.
#ifndef VLLM_KERNELS_CUDA_CACHE_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_CACHE_KERNEL_CUH_

#include "cuda/cache/launch.h"
#include "cuda/common/quantize.cuh"
#include "cuda/common/vec.cuh"

namespace vk::cuda::cache {

constexpr int kThreads = 256;

// Calls body(Type<T>, Type<Cached>): T is not in the cache, Cached is.
template <class Body>
void DispatchCached(const Launch& launch, const Body& body) {
  DispatchFloating(launch.dtype, [&](auto type) {
    if (launch.format == Format::kE4M3) {
      body(type, Type<E4M3>());
    } else if (launch.format == Format::kE5M2) {
      body(type, Type<E5M2>());
    } else {
      body(type, type);
    }
  });
}

// N * kVectors elements as they go into the cache: moved, or divided by the scale and rounded.
template <class T, class Cached, int N, int kVectors>
__device__ __forceinline__ void WriteVectors(const Vec<T, N> (&vecs)[kVectors], Cached* to,
                                             const float* scale) {
  if constexpr (std::is_same_v<T, Cached>) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) StoreVec(to + i * N, vecs[i]);
  } else {
    const Divisor divisor(*scale);
    float x[N * kVectors], abs_max = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float part[N];
      ToFloats(vecs[i], part);
#pragma unroll
      for (int j = 0; j < N; ++j) x[i * N + j] = part[j];
      abs_max = AbsMax(abs_max, vecs[i]);
    }
    // One look at all of them costs less than a limit for each.
    divisor.Divide(x, 2.0f * kQuantMax<Cached>, divisor.StaysFinite(abs_max));
    StoreVec(to, FromFloats<Cached>(x));
  }
}

// And as they come out of it.
template <class Cached, class T, int N>
__device__ __forceinline__ void ReadVector(const Cached* from, T* to, const float* scale) {
  const Vec<Cached, N> vec = LoadVec<N>(from);
  if constexpr (std::is_same_v<T, Cached>) {
    StoreVec(to, vec);
  } else {
    float x[N];
    ToFloats(vec, x);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= *scale;
    StoreVec(to, FromFloats<T>(x));
  }
}

}  // namespace vk::cuda::cache
#endif  // VLLM_KERNELS_CUDA_CACHE_KERNEL_CUH_
