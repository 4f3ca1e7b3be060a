// Division and rounding upwards, of values >= 0. The result has the type of the first argument.
#ifndef VLLM_KERNELS_CPU_ROUND_H_
#define VLLM_KERNELS_CPU_ROUND_H_

namespace vk {

template <class T>
struct SameType {
  using Type = T;
};

template <class T>
constexpr T CeilDiv(T value, typename SameType<T>::Type divisor) {
  return (value + divisor - 1) / divisor;
}

template <class T>
constexpr T RoundUp(T value, typename SameType<T>::Type multiple) {
  return CeilDiv(value, multiple) * multiple;
}

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_ROUND_H_
