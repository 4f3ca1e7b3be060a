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

  // Interleaves two rows, of which the second is zero where `count` is 1. Unpacking works inside
  // 128-bit blocks: columns of each 32 come in the order 0-3 8-11 16-19 24-27, 4-7 12-15 ...,
  // which RestoreColumns undoes once per task. A full permutation here costs four times as much.
  static constexpr int32_t kColumnMultiple = 32;
  static void PackValues(const void* const* from, int32_t count, int32_t head_size, uint32_t* to) {
    const __m512i zero = _mm512_setzero_si512();
    for (int32_t i = 0; i < head_size; i += 32) {
      const __mmask32 mask = MaskOf(head_size - i);
      const __m512i first = _mm512_maskz_loadu_epi16(mask, static_cast<const T*>(from[0]) + i);
      const __m512i second =
          count > 1 ? _mm512_maskz_loadu_epi16(mask, static_cast<const T*>(from[1]) + i) : zero;
      _mm512_storeu_si512(to + i, _mm512_unpacklo_epi16(first, second));
      _mm512_storeu_si512(to + i + 16, _mm512_unpackhi_epi16(first, second));
    }
  }
  static void RestoreColumns(const Tile& tile) {
    for (int32_t i = 0; i < tile.rows * tile.padded_head; i += 32) {
      const __m512 a = _mm512_loadu_ps(tile.out + i), b = _mm512_loadu_ps(tile.out + i + 16);
      const __m512 low = _mm512_shuffle_f32x4(a, b, 0x44), high = _mm512_shuffle_f32x4(a, b, 0xee);
      _mm512_storeu_ps(tile.out + i, _mm512_shuffle_f32x4(low, low, 0xd8));
      _mm512_storeu_ps(tile.out + i + 16, _mm512_shuffle_f32x4(high, high, 0xd8));
    }
  }

 private:
  static HWY_INLINE __mmask32 MaskOf(int32_t rest) {
    return rest >= 32 ? ~__mmask32{0} : (__mmask32{1} << rest) - 1;
  }
};

}  // namespace vk::VK_TIER

#endif  // __AVX512BF16__
#endif  // VLLM_KERNELS_CPU_ATTENTION_PAIR_H_
