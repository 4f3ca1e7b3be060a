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

void Bindings::Implement(const char* name_space) const {
  // Never deleted: that would take the registration back while the interpreter may still call.
  auto* library =
      new StableLibrary(StableLibrary::Kind::IMPL, name_space, key_, __FILE__, __LINE__);
  fill_(*library);
}

}  // namespace vk::binding

extern "C" const char* vk_torch_implement(const char* name_space) {
  thread_local std::string message;
  try {
    for (const auto* one = vk::binding::first; one != nullptr; one = one->next()) {
      one->Implement(name_space);
    }
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}
