// What every CUDA binding starts with: the tensors' GPU made current and PyTorch's current stream
// on it, through the stable ABI.
//
//   void Call(const Tensor& out, const Tensor& input) {
//     const CudaScope scope("silu_and_mul", input);
//     Check(vk_cuda_silu_and_mul(scope.View("result", out), scope.View("input", input),
//                                scope.stream()));
//   }
#ifndef VLLM_KERNELS_TORCH_CUDA_STREAM_H_
#define VLLM_KERNELS_TORCH_CUDA_STREAM_H_

#include <torch/csrc/stable/accelerator.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "torch/convert.h"
#include "torch/results.h"

// Only PyTorch's CUDA library has it. Weak, so that the kernel libraries also load where PyTorch is
// a CPU build: schemas and argument checks can be tested there.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace vk::binding {

// The view of one argument on a GPU; converts to `const vk_tensor*`, null for an absent optional.
class CudaView {
 public:
  // `device`: index that the tensor must be on; negative: any GPU.
  CudaView(const char* op, const char* name, const Tensor& tensor, int32_t device = -1) {
    Fill(op, name, tensor, device);
  }
  CudaView(const char* op, const char* name, const std::optional<Tensor>& tensor,
           int32_t device = -1) {
    if (tensor.has_value()) Fill(op, name, *tensor, device);
  }
  operator const vk_tensor*() const { return present_ ? &view_ : nullptr; }

 private:
  void Fill(const char* op, const char* name, const Tensor& tensor, int32_t device) {
    if (!tensor.is_cuda()) {
      Refuse(op, name, " is not on a CUDA device, want all tensors on one GPU");
    }
    if (device >= 0 && tensor.get_device_index() != device) {
      Refuse(op, name,
             " is on cuda:" + std::to_string(tensor.get_device_index()) +
                 ", want cuda:" + std::to_string(device) + " as the other tensors");
    }
    view_ = ToView(op, name, tensor);
    present_ = true;
  }

  vk_tensor view_;
  bool present_ = false;
};

// Makes the GPU of `tensor` current while it lives.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& tensor) : CudaScope("vllm_kernels", tensor) {}
  CudaScope(const char* op, const Tensor& tensor)
      : op_(op), device_(DeviceOf(op, tensor)), guard_(device_) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_));
  }

  void* stream() const { return stream_; }  // a cudaStream_t
  int32_t device() const { return device_; }

  // The argument's view, checked to be on this GPU.
  CudaView View(const char* name, const Tensor& tensor) const {
    return CudaView(op_, name, tensor, device_);
  }
  CudaView View(const char* name, const std::optional<Tensor>& tensor) const {
    return CudaView(op_, name, tensor, device_);
  }

  // Tensors on this GPU that the op makes (results.h).
  void CheckRoom(const char* name, const Tensor& like, SizeList sizes,
                 std::optional<ScalarType> dtype = std::nullopt) const {
    binding::CheckRoom(op_, name, like, sizes, dtype, GpuMemory);
  }
  Tensor NewEmpty(const char* name, const Tensor& like, SizeList sizes,
                  std::optional<ScalarType> dtype = std::nullopt) const {
    return binding::NewEmpty(op_, name, like, sizes, dtype, GpuMemory);
  }
  // Scratch of as many bytes; for 0 there is none.
  std::optional<Tensor> NewBytes(const char* name, const Tensor& like, int64_t count) const {
    if (count == 0) return std::nullopt;
    return NewEmpty(name, like, {count}, ScalarType::Byte);
  }

 private:
  static int32_t DeviceOf(const char* op, const Tensor& tensor) {
    if (!tensor.is_cuda()) {
      throw std::runtime_error(std::string(op) + ": the first tensor is not on a CUDA device");
    }
    if (aoti_torch_get_current_cuda_stream == nullptr) {
      throw std::runtime_error(std::string(op) + ": this PyTorch was built without CUDA");
    }
    return tensor.get_device_index();
  }

  const char* op_;
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace vk::binding
#endif  // VLLM_KERNELS_TORCH_CUDA_STREAM_H_
