// The one place where the schemas of the namespace meet the dispatcher. Device libraries only add
// implementations (VK_BINDINGS).
#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>
#include <string_view>

#include "core/abi.h"

namespace {

using torch::stable::detail::StableLibrary;

struct Op {
  const char* family;
  const char* devices;
  std::string_view schema;
};

constexpr Op kOps[] = {
#define VK_OP(family, schema) {#family, "cpu cuda", schema},
#define VK_CPU_OP(family, schema) {#family, "cpu", schema},
#define VK_CUDA_OP(family, schema) {#family, "cuda", schema},
#include "torch/ops.def"
#undef VK_OP
#undef VK_CPU_OP
#undef VK_CUDA_OP
};

std::string_view NameOf(std::string_view schema) { return schema.substr(0, schema.find('(')); }

const Op* Find(const char* name) {
  for (const Op& one : kOps) {
    if (NameOf(one.schema) == name) return &one;
  }
  return nullptr;
}

}  // namespace

STABLE_TORCH_LIBRARY(vllm_kernels, library) {
  for (const Op& op : kOps) library.def(op.schema.data());
}

// Defines the op of that name in another namespace too, with the same schema (the engine calls its
// ops in a namespace of its own). Null, or what went wrong (valid until the thread's next call).
extern "C" VK_EXPORT const char* vk_torch_define(const char* name_space, const char* op) {
  thread_local std::string message;
  try {
    if (const Op* found = Find(op)) {
      // Never deleted: that would take the definition back while the interpreter may still call.
      auto* library =
          new StableLibrary(StableLibrary::Kind::FRAGMENT, name_space, nullptr, __FILE__, __LINE__);
      library->def(found->schema.data());
      return nullptr;
    }
    message = std::string("no op of that name: ") + op;
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

// The kernel family that the op belongs to; null for an unknown op.
extern "C" VK_EXPORT const char* vk_torch_family(const char* op) {
  const Op* found = Find(op);
  return found ? found->family : nullptr;
}

// The devices on which the engine has the op, such as "cpu cuda"; null for an unknown op.
extern "C" VK_EXPORT const char* vk_torch_devices(const char* op) {
  const Op* found = Find(op);
  return found ? found->devices : nullptr;
}
