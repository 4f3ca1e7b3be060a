#include <vector>

#include "cpu/runtime/runtime.h"
#include "torch/bind.h"

namespace vk::binding {
namespace {

void InitCpuMemoryEnv(std::vector<int64_t> node_ids) {
  Check(vk_cpu_bind_memory(node_ids.data(), static_cast<int64_t>(node_ids.size())));
}

}  // namespace
}  // namespace vk::binding

// No tensor tells the device, so the key is not CPU.
VK_IMPL(CompositeExplicitAutograd, init_cpu_memory_env, vk::binding::InitCpuMemoryEnv);
