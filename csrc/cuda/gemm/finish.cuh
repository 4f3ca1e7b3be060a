// The last step of every kernel: sums to results, several elements at once.
#ifndef VLLM_KERNELS_CUDA_GEMM_FINISH_CUH_
#define VLLM_KERNELS_CUDA_GEMM_FINISH_CUH_

#include <cutlass/array.h>
#include <cutlass/numeric_conversion.h>
#include <cutlass/numeric_types.h>

#include <cstdint>

namespace vk::cuda::gemm {

// What kernels store: 16 bits, which are bfloat16 where a flag says so. One kernel serves both
// types.
using Stored = cutlass::half_t;
template <int kCount>
using Bits = cutlass::Array<Stored, kCount>;

template <int kCount>
CUTLASS_DEVICE Bits<kCount> Round(bool bf16, const cutlass::Array<float, kCount>& values) {
  if (!bf16) return cutlass::NumericArrayConverter<cutlass::half_t, float, kCount>{}(values);
  const auto rounded = cutlass::NumericArrayConverter<cutlass::bfloat16_t, float, kCount>{}(values);
  Bits<kCount> bits;
  CUTLASS_PRAGMA_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const cutlass::bfloat16_t one = rounded[i];
    bits[i] = Stored::bitcast(one.raw());
  }
  return bits;
}

CUTLASS_DEVICE float Widen(bool bf16, uint16_t bits) {
  return bf16 ? __uint_as_float(uint32_t{bits} << 16)
              : static_cast<float>(cutlass::half_t::bitcast(bits));
}

template <int kCount>
CUTLASS_DEVICE Bits<kCount> Finish(bool bf16, const cutlass::Array<float, kCount>& sums,
                                   const cutlass::Array<float, kCount>&) {
  return Round(bf16, sums);
}

template <class Sum, int kCount>
CUTLASS_DEVICE Bits<kCount> Finish(bool bf16, const cutlass::Array<Sum, kCount>& sums,
                                   const cutlass::Array<float, kCount>& a_scales,
                                   const cutlass::Array<float, kCount>& b_scales,
                                   const cutlass::Array<uint16_t, kCount>& bias) {
  cutlass::Array<float, kCount> results;
  CUTLASS_PRAGMA_UNROLL
  for (int i = 0; i < kCount; ++i) {
    results[i] = a_scales[i] * (b_scales[i] * static_cast<float>(sums[i])) + Widen(bf16, bias[i]);
  }
  return Round(bf16, results);
}

template <int kCount>
CUTLASS_DEVICE Bits<kCount> Finish(bool bf16, const cutlass::Array<int32_t, kCount>& sums,
                                   const cutlass::Array<float, kCount>& a_scales,
                                   const cutlass::Array<float, kCount>& b_scales,
                                   const cutlass::Array<uint16_t, kCount>& bias,
                                   const cutlass::Array<int32_t, kCount>& zero_points,
                                   const cutlass::Array<int32_t, kCount>& adjustments) {
  cutlass::Array<int32_t, kCount> adjusted;
  CUTLASS_PRAGMA_UNROLL
  for (int i = 0; i < kCount; ++i) adjusted[i] = sums[i] - zero_points[i] * adjustments[i];
  return Finish(bf16, adjusted, a_scales, b_scales, bias);
}

}  // namespace vk::cuda::gemm
#endif  // VLLM_KERNELS_CUDA_GEMM_FINISH_CUH_
