// Packing of bfloat16 into pairs of consecutive k, for AVX512-BF16 and AMX `*_tier.cc` files: the
// operand layout of vdpbf16ps and tdpbf16ps (Intel SDM vol. 2).
#ifndef VLLM_KERNELS_CPU_ATTENTION_PAIR_H_
#define VLLM_KERNELS_CPU_ATTENTION_PAIR_H_

#ifdef __AVX512BF16__

#include "cpu/attention/softmax.h"

namespace vk::VK_TIER {

struct PairPacking {
  using Mac = PairMac;
  using Probabilities = PairProbabilities;
  using T = hwy::bfloat16_t;

  // A column of the transposed query: pair i of the head at to[i * ld].
  static void PackQuery(const T* from, int32_t head_size, uint32_t* to, size_t ld) {
    for (int32_t i = 0; i < head_size / 2; ++i) {
      __builtin_memcpy(to + i * ld, from + 2 * i, sizeof(*to));
    }
  }

  static void PackKey(const T* from, int32_t head_size, uint32_t* to) {
    for (int32_t i = 0; i < head_size; i += 32) {
      const __mmask32 mask = MaskOf(head_size - i);
      _mm512_storeu_si512(to + i / 2, _mm512_maskz_loadu_epi16(mask, from + i));
    }
  }

  // Interleaves two rows, of which the second is zero where `count` is 1.
  static void PackValues(const T* const* from, int32_t count, int32_t head_size, uint32_t* to) {
    const __m512i low = Interleave(0), high = Interleave(16);
    const __m512i zero = _mm512_setzero_si512();
    for (int32_t i = 0; i < head_size; i += 32) {
      const __mmask32 mask = MaskOf(head_size - i);
      const __m512i first = _mm512_maskz_loadu_epi16(mask, from[0] + i);
      const __m512i second = count > 1 ? _mm512_maskz_loadu_epi16(mask, from[1] + i) : zero;
      _mm512_storeu_si512(to + i, _mm512_permutex2var_epi16(first, low, second));
      _mm512_storeu_si512(to + i + 16, _mm512_permutex2var_epi16(first, high, second));
    }
  }

 private:
  static HWY_INLINE __mmask32 MaskOf(int32_t rest) {
    return rest >= 32 ? ~__mmask32{0} : (__mmask32{1} << rest) - 1;
  }
  // Word `from + i` of the first operand, then of the second, and so on.
  static HWY_INLINE __m512i Interleave(int from) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i first = _mm512_add_epi32(lane, _mm512_set1_epi32(from));
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(32));
    return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
  }
};

}  // namespace vk::VK_TIER

#endif  // __AVX512BF16__
#endif  // VLLM_KERNELS_CPU_ATTENTION_PAIR_H_
