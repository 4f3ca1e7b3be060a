// Kernels meet the dispatcher: under `vllm_kernels` when their library is loaded, and under another
// namespace when vk_torch_implement() asks for it. The engine calls its ops in a namespace of its
// own; registering the same boxed functions there costs a call nothing, a forwarding op would.
#ifndef VLLM_KERNELS_TORCH_REGISTRY_H_
#define VLLM_KERNELS_TORCH_REGISTRY_H_

#include <torch/csrc/stable/library.h>

#include "core/abi.h"

namespace vk::binding {

using torch::stable::detail::StableLibrary;

// The kernels of one file for one dispatch key; a static object made by VK_BINDINGS.
class Bindings {
 public:
  using Fill = void(StableLibrary&);

  Bindings(const char* key, Fill* fill);
  void Implement(const char* name_space) const;
  const Bindings* next() const { return next_; }

 private:
  const char* key_;
  Fill* fill_;
  const Bindings* next_;
};

}  // namespace vk::binding

// VK_BINDINGS(CPU, library) { library.impl("op", TORCH_BOX(&Function)); }, once per file and key.
#define VK_BINDINGS(key, library)                                                           \
  static void VkFill##key(::vk::binding::StableLibrary&);                                   \
  static const ::vk::binding::Bindings vk_bindings_##key(C10_STRINGIZE(key), &VkFill##key); \
  static void VkFill##key(::vk::binding::StableLibrary& library)

// Registers this library's kernels under `name_space` too. Null, or what went wrong (valid until
// the thread's next call).
extern "C" VK_EXPORT const char* vk_torch_implement(const char* name_space);

#endif  // VLLM_KERNELS_TORCH_REGISTRY_H_
