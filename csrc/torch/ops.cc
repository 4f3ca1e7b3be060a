// The one place where the schemas of the namespace meet the dispatcher. Device libraries only add
// implementations (bind.h).
#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>

#include "core/abi.h"
#include "torch/schema.h"

namespace {

using torch::stable::detail::StableLibrary;
using vk::binding::kOps;
using vk::binding::Op;

const Op* Find(const char* name) {
  const size_t row = vk::binding::RowOf(name);
  return row < std::size(kOps) ? &kOps[row] : nullptr;
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
      // Never deleted: deleting it would remove the definition while the interpreter may still call
      // it.
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

// The namespace in which the engine calls the op, `vllm_kernels` where it does not; null for an
// unknown op.
extern "C" VK_EXPORT const char* vk_torch_namespace(const char* op) {
  const Op* found = Find(op);
  return found ? found->name_space : nullptr;
}
