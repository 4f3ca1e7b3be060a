// The weight formats of the kernels and the engine's numbers for them (its ScalarType ids).
#ifndef VLLM_KERNELS_CUDA_WNA16_WEIGHT_TYPE_H_
#define VLLM_KERNELS_CUDA_WNA16_WEIGHT_TYPE_H_

#include <cstdint>
#include <type_traits>

#include "cuda/wna16/layout.h"

namespace vk::cuda::wna16 {

enum class WeightType : int {
  kU4B8 = 0,    // GPTQ: unsigned minus 8
  kU4 = 1,      // AWQ: unsigned minus a zero point per group and column
  kU8B128 = 2,  // GPTQ with 8 bits: unsigned minus 128
  kFp8 = 3,     // e4m3
  kMxFp4 = 4,   // e2m1 with a power of two (e8m0) for each 32 of K
  kNvFp4 = 5,   // e2m1 with a float of 8 bits for each 16 of K, and one for the whole matrix
};
inline constexpr int kWeightTypes = 6;

VK_HOST_DEVICE constexpr int Bits(WeightType type) {
  return type == WeightType::kU8B128 || type == WeightType::kFp8 ? 8 : 4;
}

VK_HOST_DEVICE constexpr bool IsFp4(WeightType type) {
  return type == WeightType::kMxFp4 || type == WeightType::kNvFp4;
}
// Elements of K that share a scale of FP4; those of other types vary.
VK_HOST_DEVICE constexpr int Fp4Group(WeightType type) {
  return type == WeightType::kMxFp4 ? 32 : 16;
}
// Rows of scales that 64 of K take where a stage holds one for each group of 64 or more.
VK_HOST_DEVICE constexpr int ScaleRows(WeightType type) {
  return IsFp4(type) ? 64 / Fp4Group(type) : 1;
}
// Scales in memory: of the activations' type, or coded in a byte.
template <WeightType kType>
using ScaleElement = std::conditional_t<IsFp4(kType), uint8_t, uint16_t>;

// Whether zero points come as a tensor; those of the other integers are constants.
VK_HOST_DEVICE constexpr bool HasZeroPoints(WeightType type) { return type == WeightType::kU4; }

// `Stage` with zero points behind it; without, for types that have none. One chain of bases: for a
// second base the compiler checks pointers for null, in the main loop.
template <class Stage, WeightType kType, int kRows, int kColumns,
          bool kPresent = HasZeroPoints(kType)>
struct WithZeroPoints : Stage {
  uint32_t zeros[kRows][kColumns / 8];
};
template <class Stage, WeightType kType, int kRows, int kColumns>
struct WithZeroPoints<Stage, kType, kRows, kColumns, false> : Stage {};

// The sizes of Stage<Shape, type>, by WeightType.
template <template <class, WeightType> class Stage, class Shape>
inline constexpr int kStageBytes[kWeightTypes] = {
    sizeof(Stage<Shape, WeightType::kU4B8>),   sizeof(Stage<Shape, WeightType::kU4>),
    sizeof(Stage<Shape, WeightType::kU8B128>), sizeof(Stage<Shape, WeightType::kFp8>),
    sizeof(Stage<Shape, WeightType::kMxFp4>),  sizeof(Stage<Shape, WeightType::kNvFp4>)};

// The engine's id: exponent bits (8), mantissa bits (8), signed (1), bias (32), finite only (1) and
// kind of NaN (8), from the low bits up. Mantissa bits of an integer do not count its sign; the
// kind is 1 (as IEEE 754) unless said otherwise.
constexpr int64_t ScalarTypeId(int64_t exponent, int64_t mantissa, int64_t is_signed, int64_t bias,
                               int64_t finite_only = 0, int64_t nan_kind = 1) {
  return exponent | mantissa << 8 | is_signed << 16 | bias << 17 | finite_only << 49 |
         nan_kind << 50;
}

inline constexpr int64_t kIdU4 = ScalarTypeId(0, 4, 0, 0);
inline constexpr int64_t kIdU4B8 = ScalarTypeId(0, 4, 0, 8);
inline constexpr int64_t kIdU8 = ScalarTypeId(0, 8, 0, 0);
inline constexpr int64_t kIdU8B128 = ScalarTypeId(0, 8, 0, 128);
inline constexpr int64_t kIdFp8E4M3 = ScalarTypeId(4, 3, 1, 0, 1, 2);
inline constexpr int64_t kIdFp4E2M1 = ScalarTypeId(2, 1, 1, 0, 1, 0);

}  // namespace vk::cuda::wna16
#endif  // VLLM_KERNELS_CUDA_WNA16_WEIGHT_TYPE_H_
