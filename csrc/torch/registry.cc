#include "torch/registry.h"

#include <exception>
#include <string>

namespace vk::binding {
namespace {

using torch::stable::detail::StableLibrary;

// Constant-initialised, hence ready before the static Binding of any file.
constinit const Binding* first = nullptr;

bool Listed(std::string_view ops, std::string_view op) {
  while (!ops.empty()) {
    const size_t end = ops.find(' ');
    if (ops.substr(0, end) == op) return true;
    if (end == ops.npos) break;
    ops.remove_prefix(end + 1);
  }
  return false;
}

}  // namespace

Binding::Binding(const char* key, const char* op, Boxed* kernel)
    : key_(key), op_(op), kernel_(kernel), next_(first) {
  first = this;
  Implement("vllm_kernels");
}

void Binding::Implement(const char* name_space) const {
  // Never deleted: that would take the registration back while the interpreter may still call.
  auto* library =
      new StableLibrary(StableLibrary::Kind::IMPL, name_space, key_, __FILE__, __LINE__);
  library->impl(op_, kernel_);
}

}  // namespace vk::binding

extern "C" const char* vk_torch_implement(const char* name_space, const char* ops) {
  thread_local std::string message;
  try {
    for (const auto* one = vk::binding::first; one != nullptr; one = one->next()) {
      if (vk::binding::Listed(ops, one->op())) one->Implement(name_space);
    }
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}
