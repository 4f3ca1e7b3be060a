#include "cuda/all_reduce/all_reduce.h"

#include <memory>

#include "core/check.h"
#include "core/status.h"
#include "cuda/all_reduce/communicator.h"

namespace {

using vk::Arg;
using vk::cuda::all_reduce::Communicator;
using vk::cuda::all_reduce::DeviceScope;
using vk::cuda::all_reduce::Find;
using vk::cuda::all_reduce::kMaxRanks;
using vk::cuda::all_reduce::kVectorBytes;
using vk::cuda::all_reduce::Problem;

// Bytes of a tensor that can be moved in vectors.
int64_t VectorBytes(const char* op, const Arg& arg) {
  const int64_t bytes = vk::NumElements(arg.tensor()) * arg.ItemSize();
  VK_CHECK(bytes % kVectorBytes == 0, "%s: %s has %lld bytes, want a multiple of %d", op,
           arg.name(), static_cast<long long>(bytes), kVectorBytes);
  VK_CHECK(reinterpret_cast<uintptr_t>(arg.tensor().data) % kVectorBytes == 0 || bytes == 0,
           "%s: %s is not aligned to %d bytes", op, arg.name(), kVectorBytes);
  return bytes;
}

// Whether the elements fill their memory without gaps, in any order of dimensions.
bool IsDense(const vk_tensor& tensor) {
  int64_t expected = 1;
  uint32_t left = 0;  // dimensions, a bit for each
  for (int32_t dim = 0; dim < tensor.ndim; ++dim) left |= uint32_t{tensor.shape[dim] != 1} << dim;
  while (left != 0) {
    int32_t next = 0;
    while (next < tensor.ndim && !(left >> next & 1 && tensor.stride[next] == expected)) ++next;
    if (next == tensor.ndim) return false;
    expected *= tensor.shape[next];
    left &= ~(uint32_t{1} << next);
  }
  return true;
}

void CheckSameLayout(const char* op, const vk_tensor& inp, const vk_tensor& out) {
  bool same = true;
  for (int32_t dim = 0; dim < inp.ndim; ++dim) {
    same = same && (inp.shape[dim] == 1 || inp.stride[dim] == out.stride[dim]);
  }
  VK_CHECK(
      vk::NumElements(inp) == 0 || (same && IsDense(inp)),
      "%s: inp and out differ in their strides or have gaps, want the same strides without gaps",
      op);
}

// The registered buffer to which `bytes` bytes are copied.
Problem Staged(const char* op, const Communicator& group, int64_t bytes, int64_t buffer,
               int64_t buffer_bytes) {
  VK_CHECK(bytes <= buffer_bytes, "%s: inp has %lld bytes, want at most the buffer's %lld", op,
           static_cast<long long>(bytes), static_cast<long long>(buffer_bytes));
  return group.OfBuffer(op, reinterpret_cast<const void*>(buffer));
}

// The problem of gathering shares into a whole, or of scattering one; nothing to do where it has no
// vectors.
Problem OfShares(const char* op, const Communicator& group, const vk_tensor* inp,
                 const vk_tensor* out, bool gathers, int64_t buffer, int64_t buffer_bytes) {
  const Arg in(op, "inp", inp), result(op, "out", out);
  in.Contiguous();
  result.SameDtype(in).Contiguous();
  const Arg &whole = gathers ? result : in, &share = gathers ? in : result;
  VK_CHECK(vk::NumElements(whole.tensor()) == vk::NumElements(share.tensor()) * group.ranks(),
           "%s: %s has shape %s, want %d times the elements of %s", op, whole.name(),
           vk::ShapeString(whole.tensor()).c_str(), group.ranks(), share.name());
  const int64_t bytes = VectorBytes(op, share);
  VectorBytes(op, whole);
  if (bytes == 0) return {};
  Problem problem =
      Staged(op, group, gathers ? bytes : bytes * group.ranks(), buffer, buffer_bytes);
  problem.input = inp->data;
  problem.output = out->data;
  problem.vectors = bytes / kVectorBytes;
  return problem;
}

void CheckRanks(const char* op, const Communicator& group, int64_t ranks) {
  VK_CHECK(ranks == group.ranks(), "%s: addresses of %lld ranks, want those of %d", op,
           static_cast<long long>(ranks), group.ranks());
}

}  // namespace

extern "C" {

int64_t vk_cuda_meta_size(void) { return sizeof(vk::cuda::all_reduce::Signals); }

vk_status vk_cuda_init_custom_ar(const int64_t* signals, int64_t ranks, const vk_tensor* rank_data,
                                 int64_t rank, bool fully_connected, int64_t* communicator) {
  return vk::Guard([&] {
    const char* op = "init_custom_ar";
    VK_CHECK(ranks == 2 || ranks == 4 || ranks == 6 || ranks == 8,
             "%s: ipc_tensors has the addresses of %lld ranks, want 2, 4, 6 or 8", op,
             static_cast<long long>(ranks));
    VK_CHECK(rank >= 0 && rank < ranks, "%s: rank is %lld, want 0 to %lld", op,
             static_cast<long long>(rank), static_cast<long long>(ranks - 1));
    VK_CHECK(fully_connected || ranks == 2,
             "%s: %lld GPUs that are not all linked with each other, want at most 2 of these", op,
             static_cast<long long>(ranks));
    for (int64_t i = 0; i < ranks; ++i) {
      VK_CHECK(signals[i] != 0 && signals[i] % 128 == 0,
               "%s: the address of rank %lld in ipc_tensors is null or not aligned to 128 bytes",
               op, static_cast<long long>(i));
    }
    const Arg data(op, "rank_data", rank_data);
    data.Dtype({VK_U8}).Dims(1).Contiguous();
    VK_CHECK(reinterpret_cast<uintptr_t>(rank_data->data) % alignof(void*) == 0,
             "%s: rank_data is not aligned to %zu bytes", op, alignof(void*));
    auto made = std::make_unique<Communicator>(
        signals, static_cast<int>(ranks), static_cast<int>(rank), rank_data->data, data.size(0));
    *communicator = vk::cuda::all_reduce::Keep(made.release());
  });
}

vk_status vk_cuda_dispose(int64_t communicator) {
  return vk::Guard([&] { vk::cuda::all_reduce::Dispose("dispose", communicator); });
}

vk_status vk_cuda_register_buffer(int64_t communicator, const int64_t* buffers, int64_t ranks) {
  return vk::Guard([&] {
    const char* op = "register_buffer";
    Communicator& group = Find(op, communicator);
    CheckRanks(op, group, ranks);
    for (int64_t i = 0; i < ranks; ++i) {
      VK_CHECK(buffers[i] != 0 && buffers[i] % kVectorBytes == 0,
               "%s: the address of rank %lld in ipc_tensors is null or not aligned to %d bytes", op,
               static_cast<long long>(i), kVectorBytes);
    }
    const DeviceScope scope(op, group.device());
    group.Register(op, buffers);
  });
}

vk_status vk_cuda_graph_buffers(int64_t communicator, int64_t* count) {
  return vk::Guard(
      [&] { *count = Find("get_graph_buffer_ipc_meta", communicator).CapturedCount(); });
}

vk_status vk_cuda_graph_buffer_handles(int64_t communicator, int64_t count, uint8_t* handles,
                                       int64_t* offsets) {
  return vk::Guard([&] {
    const char* op = "get_graph_buffer_ipc_meta";
    Communicator& group = Find(op, communicator);
    const DeviceScope scope(op, group.device());
    group.CapturedHandles(op, count, handles, offsets);
  });
}

vk_status vk_cuda_register_graph_buffers(int64_t communicator, int64_t ranks, int64_t count,
                                         const uint8_t* handles, const int64_t* offsets) {
  return vk::Guard([&] {
    const char* op = "register_graph_buffers";
    Communicator& group = Find(op, communicator);
    CheckRanks(op, group, ranks);
    const DeviceScope scope(op, group.device());
    group.RegisterCaptured(op, count, handles, offsets);
  });
}

vk_status vk_cuda_all_reduce(int64_t communicator, const vk_tensor* inp, const vk_tensor* out,
                             int64_t reg_buffer, int64_t reg_buffer_sz_bytes, void* stream) {
  return vk::Guard([&] {
    const char* op = "all_reduce";
    const Arg in(op, "inp", inp), result(op, "out", out);
    in.Dtype({VK_F32, VK_BF16, VK_F16});
    result.SameDtype(in).SameShape(in);
    CheckSameLayout(op, *inp, *out);
    const int64_t bytes = VectorBytes(op, in);
    VectorBytes(op, result);
    Communicator& group = Find(op, communicator);
    if (bytes == 0) return;
    const cudaStream_t queue = vk::cuda::AsStream(stream);
    const bool staged = reg_buffer != 0;
    Problem problem = staged ? Staged(op, group, bytes, reg_buffer, reg_buffer_sz_bytes)
                             : group.OfInput(op, inp->data, queue);
    problem.input = inp->data;
    problem.output = out->data;
    problem.vectors = bytes / kVectorBytes;
    LaunchAllReduce(op, inp->dtype, group.ranks(), staged,
                    vk::cuda::all_reduce::PlanAllReduce(bytes, group.ranks()), problem, queue);
  });
}

vk_status vk_cuda_custom_all_gather(int64_t communicator, const vk_tensor* inp,
                                    const vk_tensor* out, int64_t reg_buffer,
                                    int64_t reg_buffer_sz_bytes, void* stream) {
  return vk::Guard([&] {
    const char* op = "custom_all_gather";
    const Communicator& group = Find(op, communicator);
    const Problem problem = OfShares(op, group, inp, out, true, reg_buffer, reg_buffer_sz_bytes);
    if (problem.vectors == 0) return;
    LaunchAllGather(op, group.ranks(), problem, vk::cuda::AsStream(stream));
  });
}

vk_status vk_cuda_custom_reduce_scatter(int64_t communicator, const vk_tensor* inp,
                                        const vk_tensor* out, int64_t reg_buffer,
                                        int64_t reg_buffer_sz_bytes, void* stream) {
  return vk::Guard([&] {
    const char* op = "custom_reduce_scatter";
    Arg(op, "inp", inp).Dtype({VK_F32, VK_BF16, VK_F16});
    const Communicator& group = Find(op, communicator);
    const Problem problem = OfShares(op, group, inp, out, false, reg_buffer, reg_buffer_sz_bytes);
    if (problem.vectors == 0) return;
    LaunchReduceScatter(op, inp->dtype, group.ranks(), problem, vk::cuda::AsStream(stream));
  });
}

}  // extern "C"
