// How few rows are multiplied with words of 4-bit weights, a vector of words at a time. For
// `*_tier.cc` files only.
#ifndef VLLM_KERNELS_CPU_WNA16_WNA16_ARITHMETIC_H_
#define VLLM_KERNELS_CPU_WNA16_WNA16_ARITHMETIC_H_

#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

constexpr size_t kPositions = 8, kPositionBits = 4, kHalfPositions = kPositions / 2;
// Values of K in a vector of words.
constexpr size_t kVectorDepth = kFloatLanes / 2;
// No bound on the values of K that are summed at once.
constexpr size_t kAnyDepth = size_t{1} << 31;

HWY_INLINE VF WordsToFloat(VU32 words) {
  return hn::ConvertTo(DF(), hn::BitCast(hn::RebindToSigned<DF>(), words));
}

// An arithmetic says how kStep values of K are multiplied, of which at most kMostDepth are summed
// at once. `Words` holds their weights, of which `Value<p>` is what position p adds up; Pack lays
// out `depth` values of a row so that `Row` has the lanes of Words, and returns what they must be
// multiplied with where kScaled, else 1. Settle makes the positions' sums independent of each
// other; where kFactored, each is then Factor(p) times too large.
struct GroupsF32 {
  using Row = VF;
  using DSum = DF;
  using Sum = VF;
  static constexpr size_t kStep = kVectorDepth, kPackedBytes = 2 * sizeof(float);
  static constexpr size_t kMostDepth = kAnyDepth;
  static constexpr bool kScaled = false, kFactored = true;
  // Masked values keep their place in a half of a word.
  static constexpr uint32_t Factor(size_t position) {
    return 1u << position % kHalfPositions * kPositionBits;
  }

  class Words {
   public:
    HWY_INLINE explicit Words(const uint32_t* from)
        : low_(hn::LoadU(DU(), from)), high_(hn::ShiftRight<16>(low_)) {}
    template <size_t kPosition>
    HWY_INLINE VF Value() const {
      constexpr uint32_t kMask = 15u << kPosition % kHalfPositions * kPositionBits;
      return WordsToFloat(hn::And(kPosition < kHalfPositions ? low_ : high_, hn::Set(DU(), kMask)));
    }

   private:
    using DU = hn::RebindToUnsigned<DF>;
    VU32 low_, high_;
  };

  template <class T>
  static float Pack(char* to, const T* in, size_t depth) {
    float* out = reinterpret_cast<float*>(to);
    ForVectors(depth, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
      const VF values = LoadUpTo(in + i, n);
      if (HWY_LIKELY(n == kFloatLanes)) {
        hn::StoreInterleaved2(values, values, DF(), out + 2 * i);
        return;
      }
      alignas(64) float near[2 * kFloatLanes];
      hn::StoreInterleaved2(values, values, DF(), near);
      std::memcpy(out + 2 * i, near, 2 * n * sizeof(float));
    });
    return 1.0f;
  }
  static HWY_INLINE Row Load(const char* from) {
    return hn::LoadU(DF(), reinterpret_cast<const float*>(from));
  }
  static HWY_INLINE Sum Zero() { return hn::Zero(DF()); }
  static HWY_INLINE Sum Add(Sum sum, Row a, VF weight) { return hn::MulAdd(a, weight, sum); }
  static HWY_INLINE Sum AddRow(Sum sum, Row a) { return hn::Add(sum, a); }
  static HWY_INLINE void Settle(Sum*) {}
  static HWY_INLINE VF ToFloat(Sum sum) { return sum; }
};

#if HWY_ARCH_X86
// How arithmetics of pairs lay out a row, two vectors of words at a time: the pairs of values k and
// k + kVectorDepth, each pair twice.
constexpr size_t kPairStep = 2 * kVectorDepth;
template <class T>
HWY_INLINE void StorePairs(char* to, const T* from, size_t depth) {
  T* out = reinterpret_cast<T*>(to);
  for (size_t k = 0; k < depth; k += kPairStep) {
    for (size_t i = 0; i < kVectorDepth; ++i, out += 4) {
      out[0] = out[2] = from[k + i];
      out[1] = out[3] = from[k + kVectorDepth + i];
    }
  }
}

// Activations of 16 bits as integers of 16 bits, whose pairs of products pmaddwd adds: 8 values of
// K take half of the instructions that they take as floats. What a run of K shares is a power of
// two, so that an activation of 128 th (bfloat16) or 16 th (float16) of the largest one is exact,
// and the others are wrong by 2^-15 of the largest one at most.
struct GroupsI16 {
  using DI = hn::RebindToSigned<DF>;
  using DU = hn::RebindToUnsigned<DF>;
  using D16 = hn::Repartition<int16_t, DF>;
  using DSum = DI;
  using Row = hn::Vec<D16>;
  using Sum = hn::Vec<DI>;
  static constexpr size_t kStep = kPairStep, kPackedBytes = 2 * sizeof(int16_t);
  // Lanes are added up as integers, and a byte holds two values.
  static constexpr size_t kMostDepth = 256;
  static_assert(kMostDepth * 255 * (1u << 15) < (1u << 31));
  static constexpr bool kScaled = true, kFactored = true;
  static constexpr uint32_t Factor(size_t position) { return position % 2 == 0 ? 1 : 16; }

  // Two vectors of words, whose values of K make pairs.
  class Words {
   public:
    HWY_INLINE explicit Words(const uint32_t* from) {
      const DU du;
      const D16 d16;
      const auto first = hn::LoadU(du, from), second = hn::LoadU(du, from + kFloatLanes);
      low_ = hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(second)), hn::BitCast(d16, first));
      high_ = hn::OddEven(hn::BitCast(d16, second), hn::BitCast(d16, hn::ShiftRight<16>(first)));
    }
    // Of a byte's two values the first alone, and for the second one both or all that lies above
    // the first: no value needs a shift of its own.
    template <size_t kPosition>
    HWY_INLINE Row Value() const {
      constexpr size_t kInHalf = kPosition % kHalfPositions;
      const hn::RebindToUnsigned<D16> d;
      const auto half = hn::BitCast(d, kPosition < kHalfPositions ? low_ : high_);
      if constexpr (kInHalf == 3) {
        return hn::BitCast(D16(), hn::ShiftRight<8>(half));
      } else {
        const auto byte = kInHalf == 2 ? hn::ShiftRight<8>(half) : half;
        return hn::BitCast(D16(), hn::And(byte, hn::Set(d, kInHalf == 1 ? 0xF0 : 0x0F)));
      }
    }

   private:
    Row low_, high_;
  };

  template <class T>
  static float Pack(char* to, const T* in, size_t depth) {
    const DI di;
    Sum most = hn::Zero(di);
    for (size_t k = 0; k < depth; k += kFloatLanes) {
      most = hn::Max(most, hn::BitCast(di, hn::Abs(LoadF32(in + k))));
    }
    // The largest exponent, from which the bits of the scale and of its inverse follow. Near the
    // smallest floats the inverse would have none.
    const int32_t found = hn::ReduceMax(di, most) >> 23, exponent = HWY_MAX(found, 15);
    const VF inverse = hn::BitCast(DF(), hn::Set(di, (268 - exponent) << 23));
    alignas(64) int16_t values[kMostDepth];
    const hn::Rebind<int16_t, DI> half;
    for (size_t k = 0; k < depth; k += kFloatLanes) {
      const auto integers = hn::NearestInt(hn::Mul(LoadF32(in + k), inverse));
      hn::StoreU(hn::DemoteTo(half, integers), half, values + k);
    }
    StorePairs(to, values, depth);
    // Infinities and NaNs make a NaN of all that they are multiplied with.
    const int32_t bits = found == 255 ? 0x7FC00000 : (exponent - 14) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof(scale));
    return scale;
  }
  static HWY_INLINE Row Load(const char* from) {
    return hn::LoadU(D16(), reinterpret_cast<const int16_t*>(from));
  }
  static HWY_INLINE Sum Zero() { return hn::Zero(DI()); }
  static HWY_INLINE Sum Add(Sum sum, Row a, Row weight) {
#if defined(__AVX512VNNI__)
    return Sum{_mm512_dpwssd_epi32(sum.raw, a.raw, weight.raw)};
#else
    sum = hn::Add(sum, hn::WidenMulPairwiseAdd(DI(), a, weight));
    asm("" : "+v"(sum.raw));  // compilers would add several products first, and spill them
    return sum;
#endif
  }
  static HWY_INLINE Sum AddRow(Sum sum, Row a) { return Add(sum, a, hn::Set(D16(), 1)); }
  static HWY_INLINE void Settle(Sum* sums) {
    for (size_t p = 3; p < kPositions; p += 4) sums[p] = hn::Sub(sums[p], sums[p - 1]);
  }
  static HWY_INLINE VF ToFloat(Sum sum) { return hn::ConvertTo(DF(), sum); }
};
#endif

#if defined(__AVX512BF16__)
// Two vectors of words, whose values of K make pairs of bfloat16. Integers from 0 to 15 are exact.
struct GroupsBf16 {
  using Row = __m512bh;
  using DSum = DF;
  using Sum = VF;
  static constexpr size_t kStep = kPairStep, kPackedBytes = 2 * sizeof(hwy::bfloat16_t);
  static constexpr size_t kMostDepth = kAnyDepth;
  static constexpr bool kScaled = false, kFactored = false;
  static constexpr uint32_t Factor(size_t) { return 1; }

  class Words {
   public:
    HWY_INLINE explicit Words(const uint32_t* from) {
      const __m512i first = _mm512_loadu_si512(from);
      const __m512i second = _mm512_loadu_si512(from + kFloatLanes);
      constexpr __mmask32 kUpper = 0xAAAAAAAAu;
      low_ = _mm512_mask_blend_epi16(kUpper, first, _mm512_slli_epi32(second, 16));
      high_ = _mm512_mask_blend_epi16(kUpper, _mm512_srli_epi32(first, 16), second);
    }
    // A look-up uses the low five bits of an index. The table repeats, so that the fifth bit, which
    // belongs to the neighbour, does not matter.
    template <size_t kPosition>
    HWY_INLINE __m512bh Value() const {
      constexpr size_t kShift = kPosition % kHalfPositions * kPositionBits;
      const __m512i half = kPosition < kHalfPositions ? low_ : high_;
      return (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(half, kShift), Integers());
    }

   private:
    static HWY_INLINE __m512i Integers() {
      // 0 to 15.
      const __m256i once =
          _mm256_setr_epi16(0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0x4100,
                            0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170);
      return _mm512_broadcast_i64x4(once);
    }
    __m512i low_, high_;
  };

  template <class T>
  static float Pack(char* to, const T* from, size_t depth) {
    StorePairs(to, reinterpret_cast<const uint16_t*>(from), depth);
    return 1.0f;
  }
  static HWY_INLINE Row Load(const char* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static HWY_INLINE Sum Zero() { return hn::Zero(DF()); }
  static HWY_INLINE Sum Add(Sum sum, Row a, __m512bh weight) {
    return VF{_mm512_dpbf16_ps(sum.raw, a, weight)};
  }
  static HWY_INLINE Sum AddRow(Sum sum, Row a) {
    return VF{_mm512_dpbf16_ps(sum.raw, a, (__m512bh)_mm512_set1_epi32(0x3F803F80))};
  }
  static HWY_INLINE void Settle(Sum*) {}
  static HWY_INLINE VF ToFloat(Sum sum) { return sum; }
};
#endif

// 1 / Factor(p), for both columns of each position.
template <class Arithmetic>
alignas(64) constexpr float kFactors[2 * kPositions] = {
    1.0f / Arithmetic::Factor(0), 1.0f / Arithmetic::Factor(0), 1.0f / Arithmetic::Factor(1),
    1.0f / Arithmetic::Factor(1), 1.0f / Arithmetic::Factor(2), 1.0f / Arithmetic::Factor(2),
    1.0f / Arithmetic::Factor(3), 1.0f / Arithmetic::Factor(3), 1.0f / Arithmetic::Factor(4),
    1.0f / Arithmetic::Factor(4), 1.0f / Arithmetic::Factor(5), 1.0f / Arithmetic::Factor(5),
    1.0f / Arithmetic::Factor(6), 1.0f / Arithmetic::Factor(6), 1.0f / Arithmetic::Factor(7),
    1.0f / Arithmetic::Factor(7)};

}  // namespace
}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_WNA16_WNA16_ARITHMETIC_H_
