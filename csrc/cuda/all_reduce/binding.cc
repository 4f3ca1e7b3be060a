#include "cuda/all_reduce/all_reduce.h"

#include <torch/csrc/stable/ops.h>

#include <cstring>

#include "torch/bind.h"

namespace vk::binding {
namespace {

using Integers = std::vector<int64_t>;

std::tuple<int64_t, Tensor> AllocateSharedBuffer(int64_t size) {
  int64_t address = 0;
  uint8_t handle[VK_CUDA_IPC_HANDLE_BYTES];
  const Tensor given =
      torch::stable::empty({VK_CUDA_IPC_HANDLE_BYTES}, ScalarType::Byte, std::nullopt,
                           torch::stable::Device(torch::headeronly::DeviceType::CPU));
  Check(vk_cuda_allocate_shared_buffer(size, &address, handle));
  std::memcpy(given.data_ptr(), handle, sizeof(handle));
  return {address, given};
}

void FreeSharedBuffer(int64_t address) { Check(vk_cuda_free_shared_buffer(address)); }

int64_t OpenMemHandle(const vk_tensor* mem_handle) {
  int64_t address = 0;
  Check(vk_cuda_open_mem_handle(mem_handle, &address));
  return address;
}

int64_t Init(const Integers& signals, const Tensor& rank_data, int64_t rank, bool fully_connected) {
  const CudaScope scope("init_custom_ar", rank_data);
  int64_t communicator = 0;
  Check(vk_cuda_init_custom_ar(signals.data(), static_cast<int64_t>(signals.size()),
                               scope.View("rank_data", rank_data), rank, fully_connected,
                               &communicator));
  return communicator;
}

void Dispose(int64_t communicator) { Check(vk_cuda_dispose(communicator)); }

void RegisterBuffer(int64_t communicator, const Integers& buffers) {
  Check(
      vk_cuda_register_buffer(communicator, buffers.data(), static_cast<int64_t>(buffers.size())));
}

// The bytes of the handles as integers: ranks pass them on as Python objects.
std::tuple<Integers, Integers> GraphBuffers(int64_t communicator) {
  int64_t count = 0;
  Check(vk_cuda_graph_buffers(communicator, &count));
  std::vector<uint8_t> handles(static_cast<size_t>(count) * VK_CUDA_IPC_HANDLE_BYTES);
  Integers offsets(static_cast<size_t>(count));
  Check(vk_cuda_graph_buffer_handles(communicator, count, handles.data(), offsets.data()));
  return {Integers(handles.begin(), handles.end()), offsets};
}

void RegisterGraphBuffers(int64_t communicator, const std::vector<Integers>& handles,
                          const std::vector<Integers>& offsets) {
  const char* op = "register_graph_buffers";
  if (handles.size() != offsets.size() || offsets.empty()) {
    Refuse(op, "handles", " and offsets are not of the same ranks");
  }
  const size_t count = offsets[0].size();
  std::vector<uint8_t> bytes;
  Integers places;
  for (size_t rank = 0; rank < offsets.size(); ++rank) {
    if (offsets[rank].size() != count || handles[rank].size() != count * VK_CUDA_IPC_HANDLE_BYTES) {
      Refuse(op, "handles",
             " and offsets of the ranks differ in number: they have captured different graphs");
    }
    for (const int64_t byte : handles[rank]) bytes.push_back(static_cast<uint8_t>(byte));
    places.insert(places.end(), offsets[rank].begin(), offsets[rank].end());
  }
  Check(vk_cuda_register_graph_buffers(communicator, static_cast<int64_t>(offsets.size()),
                                       static_cast<int64_t>(count), bytes.data(), places.data()));
}

std::tuple<Tensor, Tensor> NormQk(const Tensor& qkv, const Tensor& norm_weight_q,
                                  const Tensor& norm_weight_k, const Tensor& workspace,
                                  int64_t q_size, int64_t kv_size, int64_t rank, int64_t nranks,
                                  double eps) {
  const char* op = "minimax_allreduce_rms_qk";
  const CudaScope scope(op, qkv);
  CheckDims(op, "qkv", qkv, 2, "[tokens, columns]");
  const Tensor q = scope.NewEmpty("q", qkv, {qkv.size(0), q_size});
  const Tensor k = scope.NewEmpty("k", qkv, {qkv.size(0), kv_size});
  Check(vk_cuda_minimax_allreduce_rms_qk(
      scope.View("qkv", qkv), scope.View("norm_weight_q", norm_weight_q),
      scope.View("norm_weight_k", norm_weight_k), scope.View("workspace", workspace), q_size,
      kv_size, rank, nranks, eps, scope.View("q", q), scope.View("k", k), scope.stream()));
  return {q, k};
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, minimax_allreduce_rms_qk, vk::binding::NormQk);
VK_BIND(CUDA, all_reduce, vk_cuda_all_reduce);
VK_BIND(CUDA, custom_all_gather, vk_cuda_custom_all_gather);
VK_BIND(CUDA, custom_reduce_scatter, vk_cuda_custom_reduce_scatter);
VK_IMPL(CUDA, init_custom_ar, vk::binding::Init);
VK_IMPL(CPU, open_mem_handle, vk::binding::OpenMemHandle);

VK_IMPL(CompositeExplicitAutograd, meta_size, vk_cuda_meta_size);
VK_IMPL(CompositeExplicitAutograd, allocate_shared_buffer_and_handle,
        vk::binding::AllocateSharedBuffer);
VK_IMPL(CompositeExplicitAutograd, free_shared_buffer, vk::binding::FreeSharedBuffer);
VK_IMPL(CompositeExplicitAutograd, dispose, vk::binding::Dispose);
VK_IMPL(CompositeExplicitAutograd, register_buffer, vk::binding::RegisterBuffer);
VK_IMPL(CompositeExplicitAutograd, get_graph_buffer_ipc_meta, vk::binding::GraphBuffers);
VK_IMPL(CompositeExplicitAutograd, register_graph_buffers, vk::binding::RegisterGraphBuffers);
