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
  __device__ __forceinline__ Result operator()(uint32_t numerator) const {
    const uint32_t quotient = (__umulhi(numerator, magic_) + numerator) >> shift_;
    return {quotient, numerator - quotient * divisor_};
  }
#endif

 private:
  uint32_t divisor_ = 1, magic_ = 1, shift_ = 0;
};

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_FAST_DIV_H_
