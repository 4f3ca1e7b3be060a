// Kernels meet the dispatcher: under `vllm_kernels` when their library is loaded, and under another
// namespace when vk_torch_implement() asks for it. The engine calls its ops in namespaces of its
// own; registering the same boxed functions there costs a call nothing, a forwarding op would.
#ifndef VLLM_KERNELS_TORCH_REGISTRY_H_
#define VLLM_KERNELS_TORCH_REGISTRY_H_

#include <torch/csrc/stable/library.h>

#include <string_view>

#include "core/abi.h"

namespace vk::binding {

using torch::stable::detail::StableLibrary;

// What VK_BINDINGS fills: registers the kernels of the wanted ops, passes over the others.
class Registrar {
 public:
  // `ops`: names with a blank after each; empty for all.
  Registrar(StableLibrary& library, std::string_view ops) : library_(library), ops_(ops) {}
  void impl(const char* op, void (*kernel)(StableIValue*, uint64_t, uint64_t));

 private:
  StableLibrary& library_;
  std::string_view ops_;
};

// The kernels of one file for one dispatch key; a static object made by VK_BINDINGS.
class Bindings {
 public:
  using Fill = void(Registrar&);

  Bindings(const char* key, Fill* fill);
  void Implement(const char* name_space, std::string_view ops = {}) const;
  const Bindings* next() const { return next_; }

 private:
  const char* key_;
  Fill* fill_;
  const Bindings* next_;
};

}  // namespace vk::binding

// VK_BINDINGS(CPU, library) { library.impl("op", TORCH_BOX(&Function)); }, once per file and key.
#define VK_BINDINGS(key, library)                                                           \
  static void VkFill##key(::vk::binding::Registrar&);                                       \
  static const ::vk::binding::Bindings vk_bindings_##key(C10_STRINGIZE(key), &VkFill##key); \
  static void VkFill##key(::vk::binding::Registrar& library)

// Registers this library's kernels of `ops` (names with a blank after each) under `name_space` too.
// Null, or what went wrong (valid until the thread's next call).
extern "C" VK_EXPORT const char* vk_torch_implement(const char* name_space, const char* ops);

#endif  // VLLM_KERNELS_TORCH_REGISTRY_H_
