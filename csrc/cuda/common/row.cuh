// Vectors of a row: N elements from a column on, as float32.
#ifndef VLLM_KERNELS_CUDA_COMMON_ROW_CUH_
#define VLLM_KERNELS_CUDA_COMMON_ROW_CUH_

#include "cuda/common/vec.cuh"

namespace vk::cuda {

// kAligned: row starts and width are multiples of the vector. Else elements go one by one, and what
// lies past the row's end reads as 0 and is not written.
template <bool kAligned, int N, class T>
__device__ __forceinline__ void LoadVector(const T* row, int64_t column, int64_t width,
                                           float (&x)[N]) {
  if constexpr (kAligned) {
    ToFloats(LoadVec<N>(row + column), x);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = column + i < width ? ToFloat(row[column + i]) : 0.0f;
  }
}

// The same, packed as in memory: takes fewer registers while other loads are waited for.
template <bool kAligned, int N, class T>
__device__ __forceinline__ Vec<T, N> LoadPacked(const T* row, int64_t column, int64_t width) {
  if constexpr (kAligned) {
    return LoadVec<N>(row + column);
  } else {
    Vec<T, N> vec;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      vec[i] = column + i < width ? row[column + i] : FromFloat<T>(0.0f);
    }
    return vec;
  }
}

template <bool kAligned, int N, class T>
__device__ __forceinline__ void StoreVector(T* row, int64_t column, int64_t width,
                                            const float (&x)[N]) {
  if constexpr (kAligned) {
    StoreVec(row + column, FromFloats<T>(x));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (column + i < width) row[column + i] = FromFloat<T>(x[i]);
    }
  }
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_ROW_CUH_
