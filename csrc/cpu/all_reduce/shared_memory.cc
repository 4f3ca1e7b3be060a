#include "cpu/all_reduce/shared_memory.h"

#include <cstring>
#include <utility>
#include <vector>

#include "core/check.h"
#include "cpu/all_reduce/all_reduce.h"
#include "cpu/all_reduce/group.h"
#include "cpu/all_reduce/segment.h"

namespace {

using vk::Arg;
using vk::Print;
using vk::shared::Announcement;
using vk::shared::Group;
using vk::shared::GroupOf;

// A file's name has at most 255, with a prefix, the user and the rank.
constexpr int64_t kLongestName = 220;

enum Collective { kAllReduce = 1, kAllGather = 2, kGather = 3 };

int64_t BytesOf(const vk_tensor& tensor) {
  return vk::NumElements(tensor) * vk::DtypeSize(tensor.dtype);
}

Announcement Announced(Collective collective, const vk_tensor& data) {
  return {collective, data.dtype, BytesOf(data)};
}

Arg Data(const char* op, const vk_tensor* data) {
  const Arg arg(op, "data", data);
  arg.Dtype({VK_F32, VK_BF16, VK_F16, VK_I8, VK_U8, VK_I32, VK_I64, VK_BOOL, VK_F64, VK_F8E4M3})
      .Contiguous();
  return arg;
}

void CheckRank(const char* op, const char* name, const Group& group, int64_t rank) {
  VK_CHECK(rank >= 0 && rank < group.ranks(), "%s: %s is %lld, want a rank from 0 to %lld", op,
           name, Print(rank), Print(group.ranks() - 1));
}

void CheckOther(const char* op, const char* name, const Group& group, int64_t rank) {
  CheckRank(op, name, group, rank);
  VK_CHECK(rank != group.rank(), "%s: %s is %lld, this rank itself, want another one", op, name,
           Print(rank));
}

}  // namespace

extern "C" vk_status vk_cpu_shm_init(const char* name, int64_t ranks, int64_t rank, int64_t threads,
                                     int64_t* handle) {
  return vk::Guard([&] {
    const char* op = "init_shm_manager";
    VK_CHECK(name[0] != '\0', "%s: name is empty, want the group's", op);
    const auto length = static_cast<int64_t>(std::strlen(name));
    VK_CHECK(length <= kLongestName, "%s: name has %lld bytes, want at most %lld", op,
             Print(length), Print(kLongestName));
    VK_CHECK(ranks >= 1 && ranks <= vk::shared::kMostRanks,
             "%s: group_size is %lld, want 1 to %lld ranks", op, Print(ranks),
             Print(vk::shared::kMostRanks));
    VK_CHECK(rank >= 0 && rank < ranks, "%s: rank is %lld, want 0 to %lld", op, Print(rank),
             Print(ranks - 1));
    VK_CHECK(threads >= 1, "%s: thread_num is %lld, want at least 1", op, Print(threads));
    *handle = vk::shared::MakeGroup(name, ranks, rank);
  });
}

extern "C" vk_status vk_cpu_shm_join(int64_t handle, const char* name) {
  return vk::Guard([&] { GroupOf("join_shm_manager", handle)->Join(name); });
}

extern "C" vk_status vk_cpu_shm_allreduce(int64_t handle, const vk_tensor* data) {
  return vk::Guard([&] {
    const char* op = "shm_allreduce";
    const auto held = GroupOf(op, handle);
    Group& group = *held;
    Arg(op, "data", data).Dtype({VK_F32, VK_BF16, VK_F16}).Contiguous();
    char* out = static_cast<char*>(data->data);
    group.Exchange(op, Announced(kAllReduce, *data), out,
                   [&](const void* const* parts, int64_t begin, int64_t size) {
                     vk::SumParts(data->dtype, out + begin, parts, group.ranks(),
                                  size / vk::DtypeSize(data->dtype));
                   });
  });
}

extern "C" vk_status vk_cpu_shm_all_gather(int64_t handle, const vk_tensor* data,
                                           const vk_tensor* out) {
  return vk::Guard([&] {
    const char* op = "shm_all_gather";
    const auto held = GroupOf(op, handle);
    Group& group = *held;
    const Arg from = Data(op, data);
    Arg(op, "output", out).SameDtype(from).Contiguous();
    const int64_t want = group.ranks() * vk::NumElements(*data);
    VK_CHECK(vk::NumElements(*out) == want,
             "%s: output has %lld elements, want %lld, data's of each of the %lld ranks", op,
             Print(vk::NumElements(*out)), Print(want), Print(group.ranks()));
    const int64_t bytes = BytesOf(*data);
    char* to = static_cast<char*>(out->data);
    group.Exchange(op, Announced(kAllGather, *data), static_cast<const char*>(data->data),
                   [&](const void* const* parts, int64_t begin, int64_t size) {
                     for (int64_t rank = 0; rank < group.ranks(); ++rank) {
                       std::memcpy(to + rank * bytes + begin, parts[rank], size);
                     }
                   });
  });
}

extern "C" vk_status vk_cpu_shm_gather(int64_t handle, const vk_tensor* data, const vk_tensor* outs,
                                       int64_t count, int64_t dst) {
  return vk::Guard([&] {
    const char* op = "shm_gather";
    const auto held = GroupOf(op, handle);
    Group& group = *held;
    const Arg from = Data(op, data);
    CheckRank(op, "dst", group, dst);
    const bool wanted = group.rank() == dst;
    if (wanted) {
      VK_CHECK(count == group.ranks(),
               "%s: outputs has %lld tensors, want one of each of %lld ranks", op, Print(count),
               Print(group.ranks()));
      for (int64_t rank = 0; rank < count; ++rank) {
        Arg(op, "outputs", &outs[rank]).SameDtype(from).Contiguous();
        VK_CHECK(vk::NumElements(outs[rank]) == vk::NumElements(*data),
                 "%s: outputs has %lld elements of rank %lld, want data's %lld", op,
                 Print(vk::NumElements(outs[rank])), Print(rank), Print(vk::NumElements(*data)));
      }
    }
    group.Exchange(op, Announced(kGather, *data), static_cast<const char*>(data->data),
                   [&](const void* const* parts, int64_t begin, int64_t size) {
                     for (int64_t rank = 0; wanted && rank < group.ranks(); ++rank) {
                       std::memcpy(static_cast<char*>(outs[rank].data) + begin, parts[rank], size);
                     }
                   });
  });
}

extern "C" vk_status vk_cpu_shm_send(int64_t handle, const vk_shm_tensor* tensors, int64_t count,
                                     int64_t dst) {
  return vk::Guard([&] {
    const char* op = "shm_send_tensor_list";
    const auto held = GroupOf(op, handle);
    Group& group = *held;
    CheckOther(op, "dst", group, dst);
    std::vector<std::pair<const void*, int64_t>> pieces;
    pieces.emplace_back(&count, sizeof(count));
    pieces.emplace_back(tensors, count * static_cast<int64_t>(sizeof(vk_shm_tensor)));
    for (int64_t i = 0; i < count; ++i) pieces.emplace_back(tensors[i].data, tensors[i].bytes);
    group.Send(op, dst, pieces);
  });
}

extern "C" vk_status vk_cpu_shm_receive(int64_t handle, int64_t src, vk_shm_memory memory,
                                        void* context) {
  return vk::Guard([&] {
    const char* op = "shm_recv_tensor_list";
    const auto held = GroupOf(op, handle);
    Group& group = *held;
    CheckOther(op, "src", group, src);
    Group::Reader message(group, op, src);
    int64_t count = 0;
    message.Read(&count, sizeof(count));
    std::vector<vk_shm_tensor> tensors(static_cast<size_t>(count));
    message.Read(tensors.data(), count * static_cast<int64_t>(sizeof(vk_shm_tensor)));
    int64_t lost = 0;
    for (vk_shm_tensor& tensor : tensors) {
      tensor.data = memory(context, &tensor);
      if (tensor.data == nullptr && tensor.bytes > 0) lost += tensor.bytes;
      message.Read(tensor.data, tensor.bytes);
    }
    message.Finish();
    if (lost > 0) {
      vk::Fail(VK_OUT_OF_MEMORY, "%s: no memory for %lld bytes that rank %lld sent", op,
               Print(lost), Print(src));
    }
  });
}
