#include "core/check.h"

#include "core/checked.h"
#include "core/dtypes.h"

namespace vk {
namespace {

bool Known(int32_t dtype) { return dtype >= 0 && dtype < int32_t{std::size(kDtypes)}; }

}  // namespace

const char* DtypeName(int32_t dtype) {
  return Known(dtype) ? kDtypes[dtype].name : "an unknown dtype";
}

int64_t DtypeSize(int32_t dtype) { return Known(dtype) ? kDtypes[dtype].bytes : 0; }

std::string ShapeString(const vk_tensor& tensor) {
  std::string text = "[";
  for (int32_t dim = 0; dim < tensor.ndim; ++dim) {
    if (dim > 0) text += ", ";
    text += std::to_string(tensor.shape[dim]);
  }
  return text + "]";
}

int64_t NumElements(const vk_tensor& tensor) {
  int64_t count = 1;
  for (int32_t dim = 0; dim < tensor.ndim; ++dim) {
    if (tensor.shape[dim] == 0) return 0;
    count = SaturatingMultiply(count, tensor.shape[dim]);
  }
  return count;
}

Arg::Arg(const char* op, const char* name, const vk_tensor* tensor)
    : op_(op), name_(name), tensor_(tensor) {
  VK_CHECK(tensor != nullptr, "%s: %s is missing", op, name);
  VK_CHECK(tensor->ndim >= 0 && tensor->ndim <= VK_MAX_DIMS,
           "%s: %s has %d dimensions, want at most %d", op, name, tensor->ndim, VK_MAX_DIMS);
  VK_CHECK(tensor->data != nullptr || NumElements(*tensor) == 0, "%s: %s has no storage", op, name);
}

const Arg& Arg::Dtype(std::initializer_list<vk_dtype> allowed) const {
  std::string names;
  for (vk_dtype dtype : allowed) {
    if (tensor_->dtype == dtype) return *this;
    names += (names.empty() ? "" : " or ") + std::string(DtypeName(dtype));
  }
  Fail(VK_INVALID_ARGUMENT, "%s: %s is %s, want %s", op_, name_, DtypeName(tensor_->dtype),
       names.c_str());
}

const Arg& Arg::SameDtype(const Arg& other) const {
  VK_CHECK(tensor_->dtype == other.tensor_->dtype, "%s: %s is %s, want %s as %s", op_, name_,
           DtypeName(tensor_->dtype), DtypeName(other.tensor_->dtype), other.name_);
  return *this;
}

const Arg& Arg::Dims(int32_t ndim) const {
  VK_CHECK(tensor_->ndim == ndim, "%s: %s has shape %s, want %d dimensions", op_, name_,
           ShapeString(*tensor_).c_str(), ndim);
  return *this;
}

const Arg& Arg::MinDims(int32_t ndim) const {
  VK_CHECK(tensor_->ndim >= ndim, "%s: %s has shape %s, want at least %d dimensions", op_, name_,
           ShapeString(*tensor_).c_str(), ndim);
  return *this;
}

const Arg& Arg::Size(int32_t dim, int64_t want) const {
  VK_CHECK(size(dim) == want, "%s: %s has shape %s, want %lld in dimension %d", op_, name_,
           ShapeString(*tensor_).c_str(), static_cast<long long>(want), dim);
  return *this;
}

const Arg& Arg::SameShape(const Arg& other) const {
  bool same = tensor_->ndim == other.tensor_->ndim;
  for (int32_t dim = 0; same && dim < tensor_->ndim; ++dim) {
    same = tensor_->shape[dim] == other.tensor_->shape[dim];
  }
  VK_CHECK(same, "%s: %s has shape %s, want %s as %s", op_, name_, ShapeString(*tensor_).c_str(),
           ShapeString(*other.tensor_).c_str(), other.name_);
  return *this;
}

const Arg& Arg::LastDimContiguous() const {
  VK_CHECK(tensor_->ndim == 0 || size(-1) <= 1 || stride(-1) == 1,
           "%s: %s has stride %lld in its last dimension, want 1 (call .contiguous())", op_, name_,
           static_cast<long long>(stride(-1)));
  return *this;
}

const Arg& Arg::Contiguous() const {
  if (NumElements(*tensor_) == 0) return *this;  // its strides are anything
  int64_t expected = 1;
  for (int32_t dim = tensor_->ndim - 1; dim >= 0; --dim) {
    VK_CHECK(tensor_->shape[dim] <= 1 || tensor_->stride[dim] == expected,
             "%s: %s is not contiguous (call .contiguous())", op_, name_);
    expected = SaturatingMultiply(expected, tensor_->shape[dim]);
  }
  return *this;
}

int32_t Arg::Index(int32_t dim) const {
  const int32_t index = dim < 0 ? dim + tensor_->ndim : dim;
  VK_CHECK(index >= 0 && index < tensor_->ndim, "%s: %s has shape %s, want a dimension %d", op_,
           name_, ShapeString(*tensor_).c_str(), dim);
  return index;
}

int64_t Arg::ItemSize() const {
  const int64_t bytes = DtypeSize(tensor_->dtype);
  VK_CHECK(bytes > 0, "%s: %s has a dtype that is not known here", op_, name_);
  return bytes;
}

int64_t Arg::size(int32_t dim) const { return tensor_->shape[Index(dim)]; }
int64_t Arg::stride(int32_t dim) const { return tensor_->stride[Index(dim)]; }

Rows::Rows(const vk_tensor& tensor) : ndim_(tensor.ndim) {
  for (int32_t dim = 0; dim < ndim_; ++dim) {
    shape_[dim] = tensor.shape[dim];
    stride_[dim] = tensor.stride[dim];
  }
  if (ndim_ > 0) width_ = shape_[ndim_ - 1];
  for (int32_t dim = 0; dim < ndim_ - 1; ++dim) count_ = SaturatingMultiply(count_, shape_[dim]);
  if (NumElements(tensor) == 0) return;  // its strides are anything, and no row is read
  // Leading dimensions that collapse into one stride need no division per row.
  uniform_ = true;
  bool known = true;  // `expected` fits
  int64_t inner = 0;
  int64_t expected = 0;
  for (int32_t dim = ndim_ - 2; dim >= 0; --dim) {
    if (shape_[dim] == 1) continue;
    if (inner == 0) {
      inner = expected = stride_[dim];
    } else {
      uniform_ = uniform_ && known && stride_[dim] == expected;
    }
    known = known && Multiply(expected, shape_[dim], &expected);
  }
  uniform_stride_ = inner;
}

}  // namespace vk
