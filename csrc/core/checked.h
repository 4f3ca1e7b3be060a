// Integer arithmetic on numbers that callers chose: what does not fit is refused, never wrapped.
#ifndef VLLM_KERNELS_CORE_CHECKED_H_
#define VLLM_KERNELS_CORE_CHECKED_H_

#include <cstdint>
#include <limits>

namespace vk {

// False where the exact result does not fit into `*result`, which is then anything.
template <class T>
[[nodiscard]] constexpr bool Multiply(T a, T b, T* result) {
  return !__builtin_mul_overflow(a, b, result);
}
template <class T>
[[nodiscard]] constexpr bool Add(T a, T b, T* result) {
  return !__builtin_add_overflow(a, b, result);
}

// For bounds: the largest value stands for everything beyond it. Both factors are 0 or more.
template <class T>
constexpr T SaturatingMultiply(T a, T b) {
  T result{};
  return Multiply(a, b, &result) ? result : std::numeric_limits<T>::max();
}

// Whether `count` elements from `offset` on lie within `size`; any of them may be any number.
constexpr bool Within(int64_t offset, int64_t count, int64_t size) {
  return offset >= 0 && count >= 0 && count <= size && offset <= size - count;
}

}  // namespace vk
#endif  // VLLM_KERNELS_CORE_CHECKED_H_
