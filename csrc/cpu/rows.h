// Rows of matrices.
#ifndef VLLM_KERNELS_CPU_ROWS_H_
#define VLLM_KERNELS_CPU_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "core/check.h"

namespace vk {

// Where row `row` of a tensor starts.
inline const char* RowAt(const vk_tensor& tensor, size_t row) {
  const int64_t offset = static_cast<int64_t>(row) * tensor.stride[0] * DtypeSize(tensor.dtype);
  return static_cast<const char*>(tensor.data) + offset;
}

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ROWS_H_
