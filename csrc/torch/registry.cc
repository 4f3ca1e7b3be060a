#include "torch/registry.h"

#include <exception>
#include <string>

namespace vk::binding {
namespace {

// Constant-initialised, hence ready before the static Bindings of any file.
constinit const Bindings* first = nullptr;

}  // namespace

Bindings::Bindings(const char* key, Fill* fill) : key_(key), fill_(fill), next_(first) {
  first = this;
  Implement("vllm_kernels");
}

void Registrar::impl(const char* op, void (*kernel)(StableIValue*, uint64_t, uint64_t)) {
  const std::string_view name = op;
  bool wanted = ops_.empty();
  for (size_t at = 0; !wanted && at < ops_.size();) {
    const size_t end = ops_.find(' ', at);
    if (end == std::string_view::npos) break;
    wanted = ops_.substr(at, end - at) == name;
    at = end + 1;
  }
  if (wanted) library_.impl(op, kernel);
}

void Bindings::Implement(const char* name_space, std::string_view ops) const {
  // Never deleted: that would take the registration back while the interpreter may still call.
  auto* library =
      new StableLibrary(StableLibrary::Kind::IMPL, name_space, key_, __FILE__, __LINE__);
  Registrar registrar(*library, ops);
  fill_(registrar);
}

}  // namespace vk::binding

extern "C" const char* vk_torch_implement(const char* name_space, const char* ops) {
  thread_local std::string message;
  try {
    for (const auto* one = vk::binding::first; one != nullptr; one = one->next()) {
      one->Implement(name_space, ops);
    }
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}
