// From torch's stable tensors to the C ABI's views. The C ABI validates dtypes and shapes; only the
// device is checked here, because the C ABI has no notion of devices.
#ifndef VLLM_KERNELS_TORCH_CONVERT_H_
#define VLLM_KERNELS_TORCH_CONVERT_H_

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/abi.h"

namespace vk::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int32_t ToDtype(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return VK_F32;
    case ScalarType::BFloat16:
      return VK_BF16;
    case ScalarType::Half:
      return VK_F16;
    case ScalarType::Char:
      return VK_I8;
    case ScalarType::Byte:
      return VK_U8;
    case ScalarType::Int:
      return VK_I32;
    case ScalarType::Long:
      return VK_I64;
    case ScalarType::Bool:
      return VK_BOOL;
    case ScalarType::Double:
      return VK_F64;
    case ScalarType::Float8_e4m3fn:
      return VK_F8E4M3;
    case ScalarType::Float8_e8m0fnu:
      return VK_F8E8M0;
    default:
      return -1;  // refused by the first dtype check, which names the argument
  }
}

// The dtype of a tensor by PyTorch's code of it: Tensor::scalar_type() goes through some sixty
// comparisons, and throws where it does not know the code.
inline int32_t DtypeOf(const Tensor& tensor) {
  static const std::array<int8_t, 64> dtypes = [] {
    std::array<int8_t, 64> found;
    found.fill(-1);  // refused by the first dtype check, which names the argument
    for (const auto& [code, dtype] : std::initializer_list<std::pair<int32_t, vk_dtype>>{
             {aoti_torch_dtype_float32(), VK_F32},
             {aoti_torch_dtype_bfloat16(), VK_BF16},
             {aoti_torch_dtype_float16(), VK_F16},
             {aoti_torch_dtype_int8(), VK_I8},
             {aoti_torch_dtype_uint8(), VK_U8},
             {aoti_torch_dtype_int32(), VK_I32},
             {aoti_torch_dtype_int64(), VK_I64},
             {aoti_torch_dtype_bool(), VK_BOOL},
             {aoti_torch_dtype_float64(), VK_F64},
             {aoti_torch_dtype_float8_e4m3fn(), VK_F8E4M3},
             // Its function came with PyTorch 2.12, its code long before.
             {static_cast<int32_t>(ScalarType::Float8_e8m0fnu), VK_F8E8M0}}) {
      found.at(code) = static_cast<int8_t>(dtype);
    }
    return found;
  }();
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  return static_cast<uint32_t>(code) < dtypes.size() ? dtypes[code] : -1;
}

// Out of the way of the calls that succeed.
[[noreturn, gnu::cold, gnu::noinline]] inline void Refuse(const char* op, const char* name,
                                                          const std::string& what) {
  throw std::runtime_error(std::string(op) + ": " + name + what);
}

[[noreturn, gnu::cold, gnu::noinline]] inline void RethrowNamed(const char* op,
                                                                const std::string& message) {
  if (message.starts_with(op)) throw std::runtime_error(message);
  if (message.find("API call failed") == message.npos) Refuse(op, "", message);
  Refuse(op, "", "PyTorch refused a call that the op makes, such as allocating its result");
}

// The C ABI's view of a tensor on any device.
inline vk_tensor ToView(const char* op, const char* name, const Tensor& tensor) {
  const int64_t ndim = tensor.dim();
  if (ndim > VK_MAX_DIMS) {
    Refuse(op, name,
           " has " + std::to_string(ndim) + " dimensions, want at most " +
               std::to_string(VK_MAX_DIMS));
  }
  vk_tensor view;
  int64_t *sizes, *strides;  // asking the C functions saves asking each time how many there are
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(tensor.get(), &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(tensor.get(), &strides));
  for (int64_t dim = 0; dim < ndim; ++dim) {
    view.shape[dim] = sizes[dim];
    view.stride[dim] = strides[dim];
  }
  view.data = tensor.data_ptr();
  view.dtype = DtypeOf(tensor);
  view.ndim = static_cast<int32_t>(ndim);
  return view;
}

inline void CheckCpu(const char* op, const char* name, const Tensor& tensor) {
  if (!tensor.is_cpu()) Refuse(op, name, " is not on the CPU, want all tensors on one device");
}

// The view of one argument; converts to `const vk_tensor*`, null for an absent optional.
class View {
 public:
  View(const char* op, const char* name, const Tensor& tensor) { Fill(op, name, tensor); }
  View(const char* op, const char* name, const std::optional<Tensor>& tensor) {
    if (tensor.has_value()) Fill(op, name, *tensor);
  }
  operator const vk_tensor*() const { return present_ ? &view_ : nullptr; }

 private:
  void Fill(const char* op, const char* name, const Tensor& tensor) {
    CheckCpu(op, name, tensor);
    view_ = ToView(op, name, tensor);
    present_ = true;
  }

  vk_tensor view_;
  bool present_ = false;
};

// What CudaScope is to CUDA's bindings, for those of the CPU.
class CpuScope {
 public:
  explicit CpuScope(const char* op) : op_(op) {}
  binding::View View(const char* name, const Tensor& tensor) const { return {op_, name, tensor}; }
  binding::View View(const char* name, const std::optional<Tensor>& tensor) const {
    return {op_, name, tensor};
  }

 private:
  const char* op_;
};

// Raises what the C ABI recorded (RuntimeError in Python).
inline void Check(vk_status status) {
  if (status != VK_OK) throw std::runtime_error(vk_last_error());
}

// Runs an op's body. What it throws names the op: a lack of memory does not know it, and the stable
// ABI's own errors name a file and a line of PyTorch instead.
template <class Body>
void RunNamed(const char* op, const Body& body) {
  try {
    body();
  } catch (const std::exception& error) {
    RethrowNamed(op, error.what());
  }
}

}  // namespace vk::binding
#endif  // VLLM_KERNELS_TORCH_CONVERT_H_
