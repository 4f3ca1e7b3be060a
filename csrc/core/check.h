// Validation of vk_tensor arguments. Each helper throws one sentence naming op, argument, what it
// got and what it wants; kernels themselves assume checked input.
#ifndef VLLM_KERNELS_CORE_CHECK_H_
#define VLLM_KERNELS_CORE_CHECK_H_

#include <initializer_list>
#include <string>

#include "core/abi.h"
#include "core/status.h"

namespace vk {

const char* DtypeName(int32_t dtype);
int64_t DtypeSize(int32_t dtype);                  // bytes; 0: unknown
std::string ShapeString(const vk_tensor& tensor);  // "[2, 3]"
int64_t NumElements(const vk_tensor& tensor);

// An argument under test: `Arg(op, "input", tensor).Dtype({VK_F32}).Dims(2)`.
// A null tensor is refused at construction; optional arguments are checked only when present.
class Arg {
 public:
  Arg(const char* op, const char* name, const vk_tensor* tensor);

  const Arg& Dtype(std::initializer_list<vk_dtype> allowed) const;
  const Arg& SameDtype(const Arg& other) const;
  const Arg& Dims(int32_t ndim) const;
  const Arg& MinDims(int32_t ndim) const;
  const Arg& Size(int32_t dim, int64_t size) const;  // dim may be negative, Python style
  const Arg& SameShape(const Arg& other) const;
  const Arg& LastDimContiguous() const;  // stride of the last dim is 1
  const Arg& Contiguous() const;

  const vk_tensor& tensor() const { return *tensor_; }
  const char* name() const { return name_; }
  int64_t ItemSize() const;  // bytes; refuses a dtype that is not known
  int64_t size(int32_t dim) const;
  int64_t stride(int32_t dim) const;

 private:
  int32_t Index(int32_t dim) const;
  const char* op_;
  const char* name_;
  const vk_tensor* tensor_;
};

// A tensor seen as rows of its last dimension. Leading dimensions of any strides are allowed.
class Rows {
 public:
  explicit Rows(const vk_tensor& tensor);
  int64_t count() const { return count_; }
  int64_t width() const { return width_; }
  // Offset in elements of row `index` (0 <= index < count()).
  int64_t Offset(int64_t index) const {
    if (uniform_) return index * uniform_stride_;
    int64_t offset = 0;
    for (int32_t dim = ndim_ - 2; dim >= 0; --dim) {
      offset += (index % shape_[dim]) * stride_[dim];
      index /= shape_[dim];
    }
    return offset;
  }

 private:
  int64_t count_ = 1, width_ = 1, uniform_stride_ = 0;
  bool uniform_ = false;
  int32_t ndim_;
  int64_t shape_[VK_MAX_DIMS], stride_[VK_MAX_DIMS];
};

}  // namespace vk
#endif  // VLLM_KERNELS_CORE_CHECK_H_
