// Arm's matrix instructions (FEAT_BF16, FEAT_I8MM). For `*_tier.cc` files only.
//
// One instruction multiplies two rows of A with two columns of B, eight bytes of K of each, and
// adds to 2 x 2 sums: twice the products of a dot product. B's packed layout has a unit of four
// bytes of K of all columns, then the next unit; two such vectors zipped are two columns' eight
// bytes. bfmmla is defined as two bfdot after each other, so that both give the same bits.
#ifndef VLLM_KERNELS_CPU_GEMM_GEMM_MMLA_H_
#define VLLM_KERNELS_CPU_GEMM_GEMM_MMLA_H_

#include "cpu/gemm/gemm_tier.h"

#if VK_GEMM_MMLA
#include <arm_neon.h>
#if defined(__ARM_FEATURE_SVE)
#include <arm_sve.h>
#endif

namespace vk::VK_TIER {
namespace {

constexpr size_t kUnitBytes = 4, kPairStepBytes = 16;
// Of a unit of all columns.
constexpr size_t kPanelUnitBytes = kPanel * kUnitBytes;

// Vectors of 32-bit words, whatever they hold. SVE of 128 bits has the registers of NEON, whose
// loads read two vectors at once.
#if defined(__ARM_FEATURE_SVE) && __ARM_FEATURE_SVE_BITS > 128
using Words = Sized<hn::ScalableTag<int32_t>>;
HWY_INLINE Words ZeroWords() { return svdup_n_s32(0); }
HWY_INLINE Words LoadWords(const char* from) {
  return svld1_s32(svptrue_b32(), reinterpret_cast<const int32_t*>(from));
}
HWY_INLINE void StoreWords(Words words, char* to) {
  svst1_s32(svptrue_b32(), reinterpret_cast<int32_t*>(to), words);
}
// Eight bytes of two rows, in each 16 bytes of a vector.
HWY_INLINE Words LoadRows(const char* from) {
  return svld1rq_s32(svptrue_b32(), reinterpret_cast<const int32_t*>(from));
}
HWY_INLINE void Zip(Words even, Words odd, Words (&to)[2]) {
  to[0] = svzip1_s32(even, odd);
  to[1] = svzip2_s32(even, odd);
}
// Between 2 x 2 sums and rows of sums.
HWY_INLINE void ToRows(Words first, Words second, Words (&rows)[2]) {
  const svint64_t lower = svreinterpret_s64_s32(first), upper = svreinterpret_s64_s32(second);
  rows[0] = svreinterpret_s32_s64(svuzp1_s64(lower, upper));
  rows[1] = svreinterpret_s32_s64(svuzp2_s64(lower, upper));
}
HWY_INLINE void FromRows(Words first, Words second, Words (&sums)[2]) {
  const svint64_t upper = svreinterpret_s64_s32(first), lower = svreinterpret_s64_s32(second);
  sums[0] = svreinterpret_s32_s64(svzip1_s64(upper, lower));
  sums[1] = svreinterpret_s32_s64(svzip2_s64(upper, lower));
}
HWY_INLINE Words LowerNibbles(Words words) {
  return svand_n_s32_x(svptrue_b32(), words, 0x0F0F0F0F);
}
HWY_INLINE Words UpperNibbles(Words words) {
  return svreinterpret_s32_u8(svlsr_n_u8_x(svptrue_b8(), svreinterpret_u8_s32(words), 4));
}

struct MmlaBf16 {
  using Sums = Sized<DF>;
  static constexpr size_t kDepth = 4, kValueBytes = 2;
  static HWY_INLINE Sums FromWords(Words words) { return svreinterpret_f32_s32(words); }
  static HWY_INLINE Words ToWords(Sums sums) { return svreinterpret_s32_f32(sums); }
  static HWY_INLINE Sums Multiply(Sums sums, Words rows, Words columns) {
    return svbfmmla_f32(sums, svreinterpret_bf16_s32(rows), svreinterpret_bf16_s32(columns));
  }
  // Of the first row the unit kUnit alone.
  template <size_t kUnit>
  static HWY_INLINE Sums Dot(Sums sums, Words rows, Words columns) {
    return svbfdot_lane_f32(sums, svreinterpret_bf16_s32(columns), svreinterpret_bf16_s32(rows),
                            kUnit);
  }
};

struct MmlaI8 {
  using Sums = Words;
  static constexpr size_t kDepth = 8, kValueBytes = 1;
  static HWY_INLINE Sums FromWords(Words words) { return words; }
  static HWY_INLINE Words ToWords(Sums sums) { return sums; }
  static HWY_INLINE Sums Multiply(Sums sums, Words rows, Words columns) {
    return svmmla_s32(sums, svreinterpret_s8_s32(rows), svreinterpret_s8_s32(columns));
  }
  template <size_t kUnit>
  static HWY_INLINE Sums Dot(Sums sums, Words rows, Words columns) {
    return svdot_lane_s32(sums, svreinterpret_s8_s32(columns), svreinterpret_s8_s32(rows), kUnit);
  }
};
#else
using Words = int32x4_t;
HWY_INLINE Words ZeroWords() { return vdupq_n_s32(0); }
HWY_INLINE Words LoadWords(const char* from) {
  return vld1q_s32(reinterpret_cast<const int32_t*>(from));
}
HWY_INLINE void StoreWords(Words words, char* to) {
  vst1q_s32(reinterpret_cast<int32_t*>(to), words);
}
HWY_INLINE Words LoadRows(const char* from) { return LoadWords(from); }
HWY_INLINE void Zip(Words even, Words odd, Words (&to)[2]) {
  to[0] = vzip1q_s32(even, odd);
  to[1] = vzip2q_s32(even, odd);
}
HWY_INLINE void ToRows(Words first, Words second, Words (&rows)[2]) {
  const int64x2_t lower = vreinterpretq_s64_s32(first), upper = vreinterpretq_s64_s32(second);
  rows[0] = vreinterpretq_s32_s64(vuzp1q_s64(lower, upper));
  rows[1] = vreinterpretq_s32_s64(vuzp2q_s64(lower, upper));
}
HWY_INLINE void FromRows(Words first, Words second, Words (&sums)[2]) {
  const int64x2_t upper = vreinterpretq_s64_s32(first), lower = vreinterpretq_s64_s32(second);
  sums[0] = vreinterpretq_s32_s64(vzip1q_s64(upper, lower));
  sums[1] = vreinterpretq_s32_s64(vzip2q_s64(upper, lower));
}
HWY_INLINE Words LowerNibbles(Words words) { return vandq_s32(words, vdupq_n_s32(0x0F0F0F0F)); }
HWY_INLINE Words UpperNibbles(Words words) {
  return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(words), 4));
}

struct MmlaBf16 {
  using Sums = float32x4_t;
  static constexpr size_t kDepth = 4, kValueBytes = 2;
  static HWY_INLINE Sums FromWords(Words words) { return vreinterpretq_f32_s32(words); }
  static HWY_INLINE Words ToWords(Sums sums) { return vreinterpretq_s32_f32(sums); }
  static HWY_INLINE Sums Multiply(Sums sums, Words rows, Words columns) {
    return vbfmmlaq_f32(sums, vreinterpretq_bf16_s32(rows), vreinterpretq_bf16_s32(columns));
  }
  // Of the first row the unit kUnit alone.
  template <size_t kUnit>
  static HWY_INLINE Sums Dot(Sums sums, Words rows, Words columns) {
    return vbfdotq_laneq_f32(sums, vreinterpretq_bf16_s32(columns), vreinterpretq_bf16_s32(rows),
                             kUnit);
  }
};

struct MmlaI8 {
  using Sums = Words;
  static constexpr size_t kDepth = 8, kValueBytes = 1;
  static HWY_INLINE Sums FromWords(Words words) { return words; }
  static HWY_INLINE Words ToWords(Sums sums) { return sums; }
  static HWY_INLINE Sums Multiply(Sums sums, Words rows, Words columns) {
    return vmmlaq_s32(sums, vreinterpretq_s8_s32(rows), vreinterpretq_s8_s32(columns));
  }
  template <size_t kUnit>
  static HWY_INLINE Sums Dot(Sums sums, Words rows, Words columns) {
    return vdotq_laneq_s32(sums, vreinterpretq_s8_s32(columns), vreinterpretq_s8_s32(rows), kUnit);
  }
};
#endif

constexpr size_t kWordsBytes = sizeof(Words);
constexpr size_t kPanelVectors = kPanelUnitBytes / kWordsBytes;

// How B lies in memory: `Load` reads the two units of a step of one vector of columns.
// `LoadColumns` reads them as two vectors of eight bytes of each column.
struct PackedUnits {
  static constexpr size_t kStepBytes = 2 * kPanelUnitBytes, kVectorBytes = kWordsBytes;
  static HWY_INLINE void Load(const char* b, Words (&units)[2]) {
    units[0] = LoadWords(b);
    units[1] = LoadWords(b + kPanelUnitBytes);
  }
  static HWY_INLINE void LoadColumns(const char* b, Words (&columns)[2]) {
    Words units[2];
    Load(b, units);
    Zip(units[0], units[1], columns);
  }
};

// Of four bits each; both units of a column are one word.
struct PackedNibbles {
  static constexpr size_t kStepBytes = kPanelUnitBytes, kVectorBytes = kWordsBytes;
  static HWY_INLINE void Load(const char* b, Words (&units)[2]) {
    const Words words = LoadWords(b);
    units[0] = LowerNibbles(words);
    units[1] = UpperNibbles(words);
  }
  static HWY_INLINE void LoadColumns(const char* b, Words (&columns)[2]) {
    Words units[2];
    Load(b, units);
    Zip(units[0], units[1], columns);
  }
};

struct Zipped {
  static constexpr size_t kStepBytes = 2 * kPanelUnitBytes, kVectorBytes = 2 * kWordsBytes;
  static HWY_INLINE void LoadColumns(const char* b, Words (&columns)[2]) {
    columns[0] = LoadWords(b);
    columns[1] = LoadWords(b + kWordsBytes);
  }
};

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VK_GEMM_MMLA
#endif  // VLLM_KERNELS_CPU_GEMM_GEMM_MMLA_H_
