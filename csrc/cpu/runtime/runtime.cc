#include "cpu/runtime/runtime.h"

#include <cerrno>
#include <cstring>

#include "core/status.h"

#if defined(__linux__)
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// CONFIG_NODES_SHIFT is at most 10 on the platforms that we build for.
constexpr int64_t kMaxNodes = 1024;
constexpr int64_t kBits = 8 * sizeof(unsigned long);

struct NodeMask {
  unsigned long words[kMaxNodes / kBits] = {};

  void Add(int64_t node) {
    VK_CHECK(node >= 0 && node < kMaxNodes,
             "init_cpu_memory_env: node_ids has %lld, want 0 to %lld", static_cast<long long>(node),
             static_cast<long long>(kMaxNodes - 1));
    words[node / kBits] |= 1ul << (node % kBits);
  }
};

// Returns 0 or errno. A plain system call: libnuma would be another library for a single function.
int Bind(const NodeMask& mask) {
#if defined(__linux__)
  // The kernel reads one bit less than `maxnode` says.
  if (syscall(SYS_set_mempolicy, MPOL_BIND, mask.words, kMaxNodes + 1) == 0) return 0;
  return errno;
#else
  (void)mask;
  return ENOSYS;
#endif
}

}  // namespace

extern "C" vk_status vk_cpu_bind_memory(const int64_t* node_ids, int64_t count) {
  return vk::Guard([&] {
    if (count == 0) return;
    NodeMask mask;
    for (int64_t i = 0; i < count; ++i) mask.Add(node_ids[i]);
    const int error = Bind(mask);
    const bool unavailable = error == ENOSYS || error == EPERM;
    VK_CHECK(error == 0 || unavailable,
             "init_cpu_memory_env: the memory nodes cannot be used: %s (`numactl -H` lists those "
             "of this machine)",
             std::strerror(error));
  });
}
