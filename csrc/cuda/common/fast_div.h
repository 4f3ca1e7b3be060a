// Division by a number known only when a kernel is launched: one multiplication and a shift.
#ifndef VLLM_KERNELS_CUDA_COMMON_FAST_DIV_H_
#define VLLM_KERNELS_CUDA_COMMON_FAST_DIV_H_

#include <cstdint>

namespace vk::cuda {

// For numerators below 2^31 and divisors from 1 to 2^31 (Granlund and Montgomery, "Division by
// Invariant Integers using Multiplication", 1994, with room for the sum in 32 bits).
class FastDiv {
 public:
  FastDiv() = default;
  explicit FastDiv(uint32_t divisor) : divisor_(divisor), shift_(0) {
    while ((uint64_t{1} << shift_) < divisor) ++shift_;
    magic_ = static_cast<uint32_t>((((uint64_t{1} << shift_) - divisor) << 32) / divisor + 1);
  }

#if defined(__CUDACC__) || defined(__HIP__)
  __host__ __device__
#endif
      uint32_t divisor() const {
    return divisor_;
  }

  struct Result {
    uint32_t quotient, remainder;
  };
#if defined(__CUDACC__) || defined(__HIP__)
  __host__ __device__
#endif
      Result operator()(uint32_t numerator) const {
    const auto high = static_cast<uint32_t>(static_cast<uint64_t>(numerator) * magic_ >> 32);
    const uint32_t quotient = (high + numerator) >> shift_;
    return {quotient, numerator - quotient * divisor_};
  }

 private:
  uint32_t divisor_ = 1, magic_ = 1, shift_ = 0;
};

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_FAST_DIV_H_
