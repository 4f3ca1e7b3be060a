// Errors inside the kernel libraries: thrown as `vk::Error`, turned into a vk_status and a
// thread-local sentence where a call crosses the C ABI.
#ifndef VLLM_KERNELS_CORE_STATUS_H_
#define VLLM_KERNELS_CORE_STATUS_H_

#include <cstdarg>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "core/abi.h"

namespace vk {

class Error : public std::exception {
 public:
  Error(vk_status status, std::string message) : status_(status), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  vk_status status() const noexcept { return status_; }

 private:
  vk_status status_;
  std::string message_;
};

// Throws Error with a printf-style message.
[[noreturn]] void Fail(vk_status status, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// A number as %lld takes it.
constexpr long long Print(int64_t value) { return value; }

// Records `message` as this thread's last error and returns `status`.
vk_status Record(vk_status status, const char* message) noexcept;

// Runs `body` and maps what it throws to a status. Every C ABI entry point is one Guard call.
template <class Body>
vk_status Guard(Body&& body) noexcept {
  try {
    body();
    return VK_OK;
  } catch (const Error& error) {
    return Record(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return Record(VK_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return Record(VK_INTERNAL, error.what());
  } catch (...) {
    return Record(VK_INTERNAL, "unknown exception");
  }
}

}  // namespace vk

// Refuses the caller's argument with a printf-style sentence: op and argument, got, want.
#define VK_CHECK(condition, ...)                    \
  do {                                              \
    if (__builtin_expect(!(condition), 0)) {        \
      ::vk::Fail(VK_INVALID_ARGUMENT, __VA_ARGS__); \
    }                                               \
  } while (0)

#endif  // VLLM_KERNELS_CORE_STATUS_H_
