// Rows and elements of tensors.
#ifndef VLLM_KERNELS_CPU_ROWS_H_
#define VLLM_KERNELS_CPU_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "core/check.h"

namespace vk {

// Where the element that lies `element` elements from a tensor's first one starts.
inline char* ElementAt(const vk_tensor& tensor, int64_t element) {
  return static_cast<char*>(tensor.data) + element * DtypeSize(tensor.dtype);
}

// Where row `row` of a tensor starts.
inline const char* RowAt(const vk_tensor& tensor, size_t row) {
  return ElementAt(tensor, static_cast<int64_t>(row) * tensor.stride[0]);
}

// A tensor's elements, integers of 32 or 64 bits.
class Integers {
 public:
  explicit Integers(const vk_tensor& tensor) : data_(tensor.data), wide_(tensor.dtype == VK_I64) {}
  int64_t operator[](int64_t element) const {
    return wide_ ? static_cast<const int64_t*>(data_)[element]
                 : static_cast<const int32_t*>(data_)[element];
  }

 private:
  const void* data_;
  bool wide_;
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ROWS_H_
