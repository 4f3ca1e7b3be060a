#include "cpu/all_reduce/all_reduce.h"
#include "cpu/all_reduce/shared_memory.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "torch/bind.h"

namespace vk::binding {
namespace {

using Tensors = std::vector<Tensor>;

int64_t InitShmManager(const std::string& name, int64_t ranks, int64_t rank, int64_t threads) {
  int64_t handle = 0;
  Check(vk_cpu_shm_init(name.c_str(), ranks, rank, threads, &handle));
  return handle;
}

std::string JoinShmManager(int64_t handle, const std::string& name) {
  Check(vk_cpu_shm_join(handle, name.c_str()));
  return name;
}

void ShmAllGather(int64_t handle, const Tensor& data, const vk_tensor* output) {
  const char* op = "shm_all_gather";
  const Tensor dense = torch::stable::contiguous(data);
  Check(vk_cpu_shm_all_gather(handle, View(op, "data", dense), output));
}

void ShmGather(int64_t handle, const Tensor& data, const std::optional<Tensors>& outputs,
               int64_t dst) {
  const char* op = "shm_gather";
  const Tensor dense = torch::stable::contiguous(data);
  std::vector<vk_tensor> views;
  if (outputs.has_value()) {
    for (const Tensor& one : *outputs) {
      CheckPresent(op, "outputs", one);
      CheckCpu(op, "outputs", one);
      views.push_back(ToView(op, "outputs", one));
    }
  }
  Check(vk_cpu_shm_gather(handle, View(op, "data", dense), views.data(),
                          static_cast<int64_t>(views.size()), dst));
}

void ShmSendTensorList(int64_t handle, const Tensors& tensor_list, int64_t dst) {
  const char* op = "shm_send_tensor_list";
  Tensors kept;  // until their bytes are sent
  std::vector<vk_shm_tensor> tensors;
  for (const Tensor& one : tensor_list) {
    CheckPresent(op, "tensor_list", one);
    CheckCpu(op, "tensor_list", one);
    const Tensor& dense = kept.emplace_back(torch::stable::contiguous(one));
    const vk_tensor view = ToView(op, "tensor_list", dense);
    vk_shm_tensor sent = {};
    sent.data = view.data;
    sent.bytes = dense.numel() * dense.element_size();
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(dense.get(), &sent.type));
    sent.ndim = view.ndim;
    std::copy_n(view.shape, view.ndim, sent.shape);
    tensors.push_back(sent);
  }
  Check(vk_cpu_shm_send(handle, tensors.data(), static_cast<int64_t>(tensors.size()), dst));
}

// What has been received, or why the tensors could not be made.
struct Received {
  Tensors tensors;
  std::exception_ptr problem;
};

void* MakeTensor(void* context, const vk_shm_tensor* sent) {
  auto* received = static_cast<Received*>(context);
  try {
    int64_t strides[VK_MAX_DIMS];
    int64_t stride = 1;
    for (int32_t dim = sent->ndim - 1; dim >= 0; --dim) {
      strides[dim] = stride;
      stride *= sent->shape[dim];
    }
    AtenTensorHandle made;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sent->ndim, sent->shape, strides, sent->type,
                                                    aoti_torch_device_type_cpu(), 0, &made));
    return received->tensors.emplace_back(made).data_ptr();
  } catch (...) {
    received->problem = std::current_exception();
    return nullptr;
  }
}

Tensors ShmRecvTensorList(int64_t handle, int64_t src) {
  Received received;
  const vk_status status = vk_cpu_shm_receive(handle, src, MakeTensor, &received);
  if (received.problem != nullptr) std::rethrow_exception(received.problem);
  Check(status);
  return received.tensors;
}

}  // namespace
}  // namespace vk::binding

VK_BIND(CPU, rank_sum, vk_cpu_rank_sum);
// No tensor tells the device of those without the key CPU; a list may be empty.
VK_IMPL(CompositeExplicitAutograd, init_shm_manager, vk::binding::InitShmManager);
VK_IMPL(CompositeExplicitAutograd, join_shm_manager, vk::binding::JoinShmManager);
VK_BIND(CPU, shm_allreduce, vk_cpu_shm_allreduce);
VK_IMPL(CPU, shm_all_gather, vk::binding::ShmAllGather);
VK_IMPL(CPU, shm_gather, vk::binding::ShmGather);
VK_IMPL(CompositeExplicitAutograd, shm_send_tensor_list, vk::binding::ShmSendTensorList);
VK_IMPL(CompositeExplicitAutograd, shm_recv_tensor_list, vk::binding::ShmRecvTensorList);
