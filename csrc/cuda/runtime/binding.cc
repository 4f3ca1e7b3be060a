#include "cuda/runtime/runtime.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <stdexcept>

#include "torch/bind.h"

namespace vk::binding {
namespace {

using torch::stable::Device;

// A tensor of the same memory that does not keep it: captured graphs own their outputs' memory,
// which a tensor would hold for as long as the graph lives.
Tensor WeakRefTensor(const Tensor& input) {
  if (!input.is_cuda()) {
    throw std::runtime_error("weak_ref_tensor: input is not on a CUDA device");
  }
  return torch::stable::from_blob(input.data_ptr(), input.sizes(), input.strides(), input.device(),
                                  input.scalar_type());
}

bool IsPinned(const Tensor& tensor) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(tensor),
                                    torch::stable::detail::from(std::nullopt)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::is_pinned", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(stack[0]);
}

// The memory of a page-locked tensor, as the current GPU sees it: what the CPU writes, kernels
// read. A tensor in pageable memory is copied first, and its later changes are not seen.
Tensor CudaViewOfCpuTensor(const Tensor& cpu_tensor) {
  if (!cpu_tensor.is_cpu()) {
    throw std::runtime_error("get_cuda_view_from_cpu_tensor: cpu_tensor is not on the CPU");
  }
  const Device gpu(torch::headeronly::DeviceType::CUDA,
                   torch::stable::accelerator::getCurrentDeviceIndex());
  if (cpu_tensor.numel() == 0) {
    return torch::stable::empty(cpu_tensor.sizes(), cpu_tensor.scalar_type(), std::nullopt, gpu);
  }
  void* device = nullptr;
  if (IsPinned(cpu_tensor)) {
    Check(vk_cuda_mapped_address(cpu_tensor.data_ptr(), &device));
    return torch::stable::from_blob(device, cpu_tensor.sizes(), cpu_tensor.strides(), gpu,
                                    cpu_tensor.scalar_type(), [kept = cpu_tensor](void*) {});
  }
  const Tensor packed = torch::stable::contiguous(cpu_tensor);
  void* host = nullptr;
  const int64_t bytes = packed.numel() * static_cast<int64_t>(packed.element_size());
  Check(vk_cuda_copy_to_mapped(packed.data_ptr(), bytes, &host));
  try {
    Check(vk_cuda_mapped_address(host, &device));
  } catch (...) {
    vk_cuda_release_mapped(host);
    throw;
  }
  return torch::stable::from_blob(device, packed.sizes(), packed.strides(), gpu,
                                  packed.scalar_type(),
                                  [host](void*) { vk_cuda_release_mapped(host); });
}

int64_t DeviceAttribute(int64_t attribute, int64_t device) {
  int64_t value = 0;
  Check(vk_cuda_device_attribute("get_device_attribute", attribute, device, &value));
  return value;
}

int64_t MaxSharedMemory(int64_t device) {
  int64_t bytes = 0;
  Check(vk_cuda_max_shared_memory("get_max_shared_memory_per_block_device_attribute", device,
                                  &bytes));
  return bytes;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, weak_ref_tensor, vk::binding::WeakRefTensor);

VK_IMPL(CPU, get_cuda_view_from_cpu_tensor, vk::binding::CudaViewOfCpuTensor);

VK_IMPL(CompositeExplicitAutograd, get_device_attribute, vk::binding::DeviceAttribute);
VK_IMPL(CompositeExplicitAutograd, get_max_shared_memory_per_block_device_attribute,
        vk::binding::MaxSharedMemory);
