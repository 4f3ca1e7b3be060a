#include "core/status.h"

#include <cstdio>

namespace vk {
namespace {

// A fixed buffer: recording an error must not allocate, since the error may be a lack of memory.
thread_local char last_error[1024] = "";

}  // namespace

void Fail(vk_status status, const char* format, ...) {
  char text[sizeof(last_error)];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  throw Error(status, text);
}

vk_status Record(vk_status status, const char* message) noexcept {
  std::snprintf(last_error, sizeof(last_error), "%s", message);
  return status;
}

}  // namespace vk

extern "C" const char* vk_last_error(void) { return vk::last_error; }
extern "C" int32_t vk_abi_version(void) { return VK_ABI_VERSION; }
