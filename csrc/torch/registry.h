// Kernels meet the dispatcher: under `vllm_kernels` when their library is loaded, and under another
// namespace when vk_torch_implement() asks for it. The engine calls its ops in namespaces of its
// own; registering the same boxed functions there costs a call nothing, a forwarding op would.
#ifndef VLLM_KERNELS_TORCH_REGISTRY_H_
#define VLLM_KERNELS_TORCH_REGISTRY_H_

#include <torch/csrc/stable/library.h>

#include <string_view>

#include "core/abi.h"

namespace vk::binding {

using Boxed = void(StableIValue*, uint64_t, uint64_t);

// The kernel of an op for one dispatch key; a static object made by VK_BIND or VK_IMPL.
class Binding {
 public:
  Binding(const char* key, const char* op, Boxed* kernel);
  void Implement(const char* name_space) const;
  std::string_view op() const { return op_; }
  const Binding* next() const { return next_; }

 private:
  const char* key_;
  const char* op_;
  Boxed* kernel_;
  const Binding* next_;
};

}  // namespace vk::binding

// Registers this library's kernels of `ops` (names with a blank after each) under `name_space` too.
// Null, or what went wrong (valid until the thread's next call).
extern "C" VK_EXPORT const char* vk_torch_implement(const char* name_space, const char* ops);

#endif  // VLLM_KERNELS_TORCH_REGISTRY_H_
