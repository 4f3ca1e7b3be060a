// Where the rows of tensors lie.
#ifndef VLLM_KERNELS_CUDA_COMMON_ROWS_H_
#define VLLM_KERNELS_CUDA_COMMON_ROWS_H_

#include <cstdint>

#include "core/check.h"

namespace vk::cuda {

// Whether every row of `tensor` starts at, and strides are, multiples of `bytes` bytes.
inline bool RowsAligned(const vk_tensor& tensor, int64_t bytes) {
  const int64_t item = DtypeSize(tensor.dtype);
  bool aligned = reinterpret_cast<uintptr_t>(tensor.data) % bytes == 0;
  for (int32_t dim = 0; dim < tensor.ndim - 1; ++dim) {
    aligned = aligned && (tensor.shape[dim] <= 1 || tensor.stride[dim] * item % bytes == 0);
  }
  return aligned;
}

inline void CheckRowsAligned(const char* op, const Arg& arg, int64_t bytes) {
  VK_CHECK(RowsAligned(arg.tensor(), bytes),
           "%s: %s does not start at, or has strides that are not, multiples of %lld bytes", op,
           arg.name(), static_cast<long long>(bytes));
}

// Where the rows of a tensor (its last dimension) start; passed to kernels by value. Leading
// dimensions of any strides are allowed; those that collapse into one cost no division.
struct RowMap {
  int32_t dims = 0;  // of leading dimensions that remain after collapsing; the last is dims - 1
  int64_t shape[VK_MAX_DIMS] = {};
  int64_t stride[VK_MAX_DIMS] = {};

  RowMap() = default;
  explicit RowMap(const vk_tensor& tensor) {
    for (int32_t dim = 0; dim < tensor.ndim - 1; ++dim) {
      if (tensor.shape[dim] == 1) continue;
      if (dims > 0 && stride[dims - 1] == tensor.stride[dim] * tensor.shape[dim]) {
        shape[dims - 1] *= tensor.shape[dim];
        stride[dims - 1] = tensor.stride[dim];
      } else {
        shape[dims] = tensor.shape[dim];
        stride[dims++] = tensor.stride[dim];
      }
    }
  }

#if defined(__CUDACC__) || defined(__HIP__)
  // In elements. Not unrolled: a division is long, and the members of a __grid_constant__ argument
  // can be indexed where they are.
  __device__ __forceinline__ int64_t Offset(int64_t row) const {
    int64_t offset = 0;
#pragma unroll 1
    for (int32_t dim = dims - 1; dim > 0; --dim) {
      const int64_t rest = row / shape[dim];
      offset += (row - rest * shape[dim]) * stride[dim];
      row = rest;
    }
    return offset + row * stride[0];
  }
#endif
};

// Whether all rows at `data`, of elements of one byte, start at multiples of `bytes` bytes.
inline bool ByteRowsAligned(const void* data, const RowMap& rows, int64_t bytes) {
  bool aligned = reinterpret_cast<uintptr_t>(data) % bytes == 0;
  for (int32_t dim = 0; dim < rows.dims; ++dim) aligned = aligned && rows.stride[dim] % bytes == 0;
  return aligned;
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_ROWS_H_
