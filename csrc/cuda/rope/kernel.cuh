// Angles and rotations, for both kernels.
#ifndef VLLM_KERNELS_CUDA_ROPE_KERNEL_CUH_
#define VLLM_KERNELS_CUDA_ROPE_KERNEL_CUH_

#include <algorithm>

#include "cuda/common/vec.cuh"
#include "cuda/rope/launch.h"

namespace vk::cuda::rope {

// N elements as float32, in loads of at most 16 bytes.
template <int N, class T>
__device__ __forceinline__ void LoadFloats(const T* from, float (&x)[N]) {
  constexpr int kStep = N < kVecSize<T> ? N : kVecSize<T>;
#pragma unroll
  for (int i = 0; i < N; i += kStep) {
    const Vec<T, kStep> part = LoadVec<kStep>(from + i);
#pragma unroll
    for (int j = 0; j < kStep; ++j) x[i + j] = ToFloat(part[j]);
  }
}

// The cosines and sines of pairs `first` to `first + N` at a row of the cache.
template <int N, class Cache>
struct Turn {
  __device__ __forceinline__ Turn(const Angles& angles, const Cache* row, int first) {
    LoadFloats(row + first, cos);
    LoadFloats(row + angles.half + first, sin);
    if (angles.inverse) {
#pragma unroll
      for (float& one : sin) one = -one;
    }
  }

  __device__ __forceinline__ void Apply(int i, float& x, float& y) const {
    const float turned = fmaf(-y, sin[i], x * cos[i]);
    y = fmaf(x, sin[i], y * cos[i]);
    x = turned;
  }

  float cos[N], sin[N];
};

// The row of a token's position; null where the cache has none.
template <class Cache>
__device__ __forceinline__ const Cache* RowOf(const Angles& angles, int64_t token) {
  const int64_t position = angles.positions[token];
  if (position < 0 || position >= angles.max_position) return nullptr;
  return static_cast<const Cache*>(angles.cache) + position * angles.row_stride;
}

// Calls body(Type<T>, Type<Cache>) for the dtypes of the heads and of the cache.
template <class Body>
void DispatchTypes(const Launch& launch, const Body& body) {
  DispatchFloating(launch.dtype, [&](auto type) {
    if (launch.float_cache) {
      body(type, Type<float>());
    } else {
      body(type, type);
    }
  });
}

}  // namespace vk::cuda::rope
#endif  // VLLM_KERNELS_CUDA_ROPE_KERNEL_CUH_
