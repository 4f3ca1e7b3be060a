// 16 x 16 transpose of 32-bit elements, for AVX-512 `*_tier.cc` files.
#ifndef VLLM_KERNELS_CPU_ATTENTION_TRANSPOSE_H_
#define VLLM_KERNELS_CPU_ATTENTION_TRANSPOSE_H_

#ifdef __AVX512F__

#include <immintrin.h>

#include "cpu/tier.h"

namespace vk::VK_TIER {

// to[i][j] = from[j][i]; rows are `ld_from` and `ld_to` elements apart.
HWY_INLINE void Transpose16(const uint32_t* from, size_t ld_from, uint32_t* to, size_t ld_to) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * ld_from);
  // Pairs of rows, then groups of four, inside each 128-bit block.
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // Then whole blocks: column 4 q + i of rows 4 g .. is block q of a[4 g + i].
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88);
    b[4 + i] = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
    b[8 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
    b[12 + i] = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(to + i * ld_to, _mm512_shuffle_i32x4(b[i], b[8 + i], 0x88));
    _mm512_storeu_si512(to + (4 + i) * ld_to, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0x88));
    _mm512_storeu_si512(to + (8 + i) * ld_to, _mm512_shuffle_i32x4(b[i], b[8 + i], 0xdd));
    _mm512_storeu_si512(to + (12 + i) * ld_to, _mm512_shuffle_i32x4(b[4 + i], b[12 + i], 0xdd));
  }
}

}  // namespace vk::VK_TIER

#endif  // __AVX512F__
#endif  // VLLM_KERNELS_CPU_ATTENTION_TRANSPOSE_H_
