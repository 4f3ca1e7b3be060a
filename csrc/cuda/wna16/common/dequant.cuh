// From packed integers to pairs of 16-bit floats in registers, without a conversion instruction.
//
// An integer that is or-ed into the mantissa of a power of two is that power plus the integer;
// subtracting the power, with the zero point in the same step, leaves the exact value. (Kim et al.,
// "Who Says Elephants Can't Run: Bringing Large Scale MoE Models into Cloud Scale Production",
// 2022; Frantar et al., "MARLIN: Mixed-Precision Auto-Regressive Parallel Inference on Large
// Language Models", 2024.) Scales of integers and of FP8 are not applied here: sums of exact
// products are scaled in float32. FP4 is a sign, two bits of exponent and one of mantissa, and its
// scales have four bits of precision or none: their products are exact in 16 bits.
#ifndef VLLM_KERNELS_CUDA_WNA16_COMMON_DEQUANT_CUH_
#define VLLM_KERNELS_CUDA_WNA16_COMMON_DEQUANT_CUH_

#include "cuda/wna16/common/arithmetic.cuh"
#include "cuda/wna16/weight_type.h"

namespace vk::cuda::wna16 {

// Exponent bits that make a mantissa an integer: 128 in bfloat16 (7 bits of mantissa), 1024 in
// half.
template <class T>
struct Magic;
template <>
struct Magic<Bf16Arithmetic> {
  static constexpr uint32_t kBase = 0x43004300;    // 128, 128
  static constexpr uint32_t kZero8 = 0x43084308;   // 128 + 8
  static constexpr uint32_t kFp8Fix = 0x7b807b80;  // 2^120: what an e4m3 exponent lacks
  static constexpr float kFp8Unfix = 0x1p-120f;    // in scales that the engine multiplied by it
  static constexpr uint32_t kFp4Fix = 0x7e807e80;  // 2^126: what an e2m1 exponent lacks
  static constexpr float kMxFp4Unfix = 0x1p40f;    // 2^126 / 2^86
  static constexpr float kNvFp4Unfix = 0x1p-112f;  // 2^14 / 2^7, in place of the engine's 2^119
};
template <>
struct Magic<ScaledBf16Arithmetic> : Magic<Bf16Arithmetic> {};
template <>
struct Magic<Fp16Arithmetic> {
  static constexpr uint32_t kBase = 0x64006400;    // 1024, 1024
  static constexpr uint32_t kZero8 = 0x64086408;   // 1024 + 8
  static constexpr uint32_t kFp8Fix = 0x5c005c00;  // 2^8
  static constexpr float kFp8Unfix = 0x1p-8f;
  static constexpr uint32_t kFp4Fix = 0x74007400;  // 2^14
  static constexpr float kMxFp4Unfix = 1.f;
  static constexpr float kNvFp4Unfix = 1.f;  // 2^14 / 2^7, in place of the engine's 2^7
};

// Fragment registers a0..a3 from one word of 4-bit weights; `zero` holds what is subtracted from
// the rows of a0 and a2, and of a1 and a3: pairs of base + zero point.
template <class T>
__device__ __forceinline__ void Dequant4(uint32_t (&a)[4], uint32_t word, uint32_t zero_low,
                                         uint32_t zero_high) {
  a[0] = T::Sub2(AndOr<0x000f000f, Magic<T>::kBase>(word), zero_low);
  a[1] = T::Sub2(AndOr<0x000f000f, Magic<T>::kBase>(word >> 4), zero_high);
  a[2] = T::Sub2(AndOr<0x000f000f, Magic<T>::kBase>(word >> 8), zero_low);
  a[3] = T::Sub2(AndOr<0x000f000f, Magic<T>::kBase>(word >> 12), zero_high);
}

// Two of 8 bits, biased by 128, in bits 0..7 and 16..23 of `word`.
template <class T>
__device__ __forceinline__ uint32_t Dequant8Pair(uint32_t word);
template <>
__device__ __forceinline__ uint32_t Dequant8Pair<Fp16Arithmetic>(uint32_t word) {
  return Fp16Arithmetic::Sub2(AndOr<0x00ff00ff, Magic<Fp16Arithmetic>::kBase>(word),
                              0x64806480);  // 1024 + 128
}
template <>
__device__ __forceinline__ uint32_t Dequant8Pair<Bf16Arithmetic>(uint32_t word) {
  // Seven bits fit the mantissa. The eighth says what to subtract: 256 = 0x4380 where it is clear,
  // 128 = 0x4300 where it is set, so it goes into that number's own bit 7.
  return Bf16Arithmetic::Sub2(AndOr<0x007f007f, 0x43004300>(word),
                              AndXor<0x00800080, 0x43804380>(word));
}

// Two e4m3 in the high bytes of both halves of `word`: the bits in place, the exponent's bias
// mended.
template <class T>
__device__ __forceinline__ uint32_t DequantFp8Pair(uint32_t word) {
  constexpr int kShift = Magic<T>::kBase == Magic<Fp16Arithmetic>::kBase ? 1 : 4;
  const uint32_t bits = (word & 0x80008000) | ((word & 0x7f007f00) >> kShift);
  return T::Mul2(bits, Magic<T>::kFp8Fix);
}

// Fragment registers from two words of 8-bit weights.
template <class T, WeightType kType>
__device__ __forceinline__ void Dequant8(uint32_t (&a)[4], uint32_t low, uint32_t high) {
  if constexpr (kType == WeightType::kFp8) {
    a[0] = DequantFp8Pair<T>(low << 8);
    a[1] = DequantFp8Pair<T>(low);
    a[2] = DequantFp8Pair<T>(high << 8);
    a[3] = DequantFp8Pair<T>(high);
  } else {
    a[0] = Dequant8Pair<T>(low);
    a[1] = Dequant8Pair<T>(low >> 8);
    a[2] = Dequant8Pair<T>(high);
    a[3] = Dequant8Pair<T>(high >> 8);
  }
}

// Whether scales bring kFp4Fix: those of MXFP4 have no room for it in float16.
template <class T, WeightType kType>
inline constexpr bool kFp4ScaleFixes =
    kType == WeightType::kNvFp4 || Magic<T>::kBase == Magic<Bf16Arithmetic>::kBase;

// What sums of FP4 weights lack; of NVFP4 besides, the global scale with the engine's factor.
template <class T, WeightType kType>
__device__ __forceinline__ constexpr float Fp4Unfix() {
  return kType == WeightType::kNvFp4 ? Magic<T>::kNvFp4Unfix : Magic<T>::kMxFp4Unfix;
}

// Two e2m1, from bit kAt (0 or 4) of both halves of `word` on, as 16-bit floats whose exponents
// lack kFp4Fix.
template <class T, int kAt>
__device__ __forceinline__ uint32_t Fp4Bits(uint32_t word) {
  constexpr uint32_t kMagnitudes = 0x00070007u << kAt, kSigns = 0x80008000;
  if constexpr (Magic<T>::kBase == Magic<Bf16Arithmetic>::kBase) {
    // One multiplication moves the sign by 12 and the rest by 6; copies between are cleared.
    const uint32_t both = word & (kMagnitudes | 0x00080008u << kAt);
    return both * (((1u << 12) + (1u << 6)) >> kAt) & (kSigns | 0x01c001c0);
  } else {
    return (word << (12 - kAt) & kSigns) | (word & kMagnitudes) << (9 - kAt);
  }
}

// Fragment registers a0..a3, without kFp4Fix, from one word of FP4.
template <class T>
__device__ __forceinline__ void Fp4Fragment(uint32_t (&a)[4], uint32_t word) {
  const uint32_t high = word >> 8;
  a[0] = Fp4Bits<T, 0>(word);
  a[1] = Fp4Bits<T, 4>(word);
  a[2] = Fp4Bits<T, 0>(high);
  a[3] = Fp4Bits<T, 4>(high);
}

// As Fp4Fragment, times pairs of equal scales (Fp4ScalePair) of the rows of a0 and a2, and of a1
// and a3: weights over Fp4Unfix<T, kType>().
template <class T, WeightType kType>
__device__ __forceinline__ void DequantFp4(uint32_t (&a)[4], uint32_t word, uint32_t scale_low,
                                           uint32_t scale_high) {
  Fp4Fragment<T>(a, word);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    if constexpr (!kFp4ScaleFixes<T, kType>) a[r] = T::Mul2(a[r], Magic<T>::kFp4Fix);
    a[r] = T::Mul2(a[r], r % 2 == 0 ? scale_low : scale_high);
  }
}

// The scales in the high bytes of both halves of `bytes`, whose low bytes are clear. They bring
// kFp4Fix, as far as the type's range allows: sums get the rest, Fp4Unfix, in float32.
template <class T, WeightType kType>
__device__ __forceinline__ uint32_t Fp4ScalePair(uint32_t bytes) {
  constexpr bool kHalf = Magic<T>::kBase == Magic<Fp16Arithmetic>::kBase;
  if constexpr (kType == WeightType::kNvFp4 && kHalf) {
    return bytes >> 1;
  } else if constexpr (kType == WeightType::kNvFp4) {
    constexpr uint32_t kHalfFix = 0x77807780;  // 2^112, twice: half's exponent and the rest
    return T::Mul2(T::Mul2(bytes >> 4, kHalfFix), kHalfFix);
  } else if constexpr (kHalf) {
    return T::FromFloats(__uint_as_float((bytes & 0xff00) << 15),
                         __uint_as_float((bytes & 0xff000000) >> 1));
  } else {
    return T::Mul2(bytes >> 1, 0x6a806a80);  // 2^86
  }
}

// One scale in float32; NVFP4: times 2^7.
template <WeightType kType>
__device__ __forceinline__ float Fp4Scale(uint8_t byte) {
  if constexpr (kType == WeightType::kNvFp4) {
    return Fp16Arithmetic::ToFloat(static_cast<uint16_t>(byte << 7));
  } else {
    return byte == 0 ? 0x1p-127f : __uint_as_float(static_cast<uint32_t>(byte) << 23);
  }
}

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_COMMON_DEQUANT_CUH_
