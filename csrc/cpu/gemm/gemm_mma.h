// POWER10's matrix instructions (MMA). For `*_tier.cc` files only.
//
// One instruction multiplies four rows of A with four columns of B, a unit of four bytes of K of
// each, and adds to 4 x 4 sums in an accumulator. Vectors of B's packed layout are four columns'
// units as they lie.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_MMA_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_MMA_H_

#include "cpu/gemm/gemm_tier.h"

#if VK_GEMM_MMA
#include <altivec.h>

namespace vk::VK_TIER {
namespace {

constexpr size_t kGroupRows = 4, kUnitBytes = 4, kVectorBytes16 = 16;
// A step is two units of K: as much as a word of 4-bit weights holds.
constexpr size_t kStepUnits = 2;
constexpr size_t kGroupStepBytes = kStepUnits * kGroupRows * kUnitBytes;
// Of a unit of all columns.
constexpr size_t kPanelUnitBytes = kPanel * kUnitBytes;
constexpr size_t kPanelVectors = kPanelUnitBytes / kVectorBytes16;

using Bytes16 = __vector unsigned char;
using Words = __vector signed int;
using Accumulator = __vector_quad;

HWY_INLINE Bytes16 LoadBytes(const char* from) {
  return vec_xl(0, reinterpret_cast<const unsigned char*>(from));
}
HWY_INLINE Words LoadWords(const char* from) {
  return vec_xl(0, reinterpret_cast<const signed int*>(from));
}
HWY_INLINE void StoreWords(Words words, char* to) {
  vec_xst(words, 0, reinterpret_cast<signed int*>(to));
}

HWY_INLINE void Transpose(Words (&rows)[4]) {
  using Pairs = __vector signed long long;
  const auto pairs = [](Words words) VK_INLINE_LAMBDA { return reinterpret_cast<Pairs>(words); };
  const auto words = [](Pairs pairs) VK_INLINE_LAMBDA { return reinterpret_cast<Words>(pairs); };
  const Pairs low[2] = {pairs(vec_mergeh(rows[0], rows[1])), pairs(vec_mergeh(rows[2], rows[3]))};
  const Pairs high[2] = {pairs(vec_mergel(rows[0], rows[1])), pairs(vec_mergel(rows[2], rows[3]))};
  rows[0] = words(vec_mergeh(low[0], low[1]));
  rows[1] = words(vec_mergel(low[0], low[1]));
  rows[2] = words(vec_mergeh(high[0], high[1]));
  rows[3] = words(vec_mergel(high[0], high[1]));
}

// Products: what packing A does to values, and one instruction. kTransposed: the accumulator has a
// row for each column.
struct MmaF32 {
  using Value = float;
  static constexpr size_t kUnit = 1;  // values
  static constexpr int32_t kShift = 0;
  static constexpr bool kTransposed = false;
  static HWY_INLINE void Add(Accumulator& sums, Bytes16 rows, Bytes16 columns) {
    __builtin_mma_xvf32gerpp(&sums, rows, columns);
  }
};

struct MmaF16 : MmaF32 {
  using Value = hwy::float16_t;
};

struct MmaBf16 {
  using Value = hwy::bfloat16_t;
  static constexpr size_t kUnit = 2;
  static constexpr int32_t kShift = 0;
  static constexpr bool kTransposed = false;
  static HWY_INLINE void Add(Accumulator& sums, Bytes16 rows, Bytes16 columns) {
    __builtin_mma_xvbf16ger2pp(&sums, rows, columns);
  }
};

// Signed bytes times unsigned ones: a is shifted by 128 into the unsigned range.
struct MmaI8 {
  using Value = int8_t;
  static constexpr size_t kUnit = 4;
  static constexpr int32_t kShift = 128;
  static constexpr bool kTransposed = true;
  static HWY_INLINE void Add(Accumulator& sums, Bytes16 rows, Bytes16 columns) {
    __builtin_mma_xvi8ger4pp(&sums, columns, rows);
  }
};

// Bytes of B from 0 to 15 are unsigned already.
struct MmaSmall {
  using Value = int8_t;
  static constexpr size_t kUnit = 4;
  static constexpr int32_t kShift = 0;
  static constexpr bool kTransposed = false;
  static HWY_INLINE void Add(Accumulator& sums, Bytes16 rows, Bytes16 columns) {
    __builtin_mma_xvi8ger4pp(&sums, rows, columns);
  }
};

// How B lies in memory: `Load` reads the units of a step of four columns. kConverted: they are made
// of something else, which many rows share.
struct PackedUnits {
  static constexpr bool kConverted = false;
  static constexpr size_t kStepBytes = kStepUnits * kPanelUnitBytes;
  static constexpr size_t kVectorBytes = kVectorBytes16;
  static HWY_INLINE void Load(const char* b, Bytes16 (&units)[kStepUnits]) {
    units[0] = LoadBytes(b);
    units[1] = LoadBytes(b + kPanelUnitBytes);
  }
};

struct PackedHalves {
  static constexpr bool kConverted = true;
  static constexpr size_t kStepBytes = kStepUnits * kPanelUnitBytes / 2;
  static constexpr size_t kVectorBytes = kVectorBytes16 / 2;
  static HWY_INLINE void Load(const char* b, Bytes16 (&units)[kStepUnits]) {
    for (size_t u = 0; u < kStepUnits; ++u, b += kPanelUnitBytes / 2) {
      units[u] = reinterpret_cast<Bytes16>(LoadF32(reinterpret_cast<const hwy::float16_t*>(b)).raw);
    }
  }
};

// Of four bits each; both units of a column are one word.
struct PackedNibbles {
  static constexpr bool kConverted = true;
  static constexpr size_t kStepBytes = kPanelUnitBytes;
  static constexpr size_t kVectorBytes = kVectorBytes16;
  static HWY_INLINE void Load(const char* b, Bytes16 (&units)[kStepUnits]) {
    const Bytes16 words = LoadBytes(b);
    units[0] = vec_and(words, vec_splats(static_cast<unsigned char>(15)));
    units[1] = vec_sr(words, vec_splats(static_cast<unsigned char>(4)));
  }
};

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VK_GEMM_MMA
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_MMA_H_
