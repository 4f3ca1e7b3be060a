// Register-blocked products: c[m][n] = c[m][n] * scale[m] + sum_k a(m, k) b(k, n), for `*_tier.cc`
// files. One element of `a` is broadcast against vectors of `b` (the outer-product scheme of Goto
// and van de Geijn 2008); accumulators stay in registers over all of k.
#ifndef VLLM_KERNELS_CPU_ATTENTION_MICRO_H_
#define VLLM_KERNELS_CPU_ATTENTION_MICRO_H_

#include "cpu/vec.h"

namespace vk::VK_TIER {

// 32 or more vector registers hold 6 x 4 accumulators, 16 hold 6 x 2, besides the operands.
constexpr int kMicroRows = 6;
constexpr int kMicroVectors = kManyRegisters ? 4 : 2;
constexpr int kLanes = static_cast<int>(kFloatLanes);

template <int kCount>
struct Constant {
  static constexpr int kValue = kCount;
};

// The arithmetic: how many k one element covers, and how elements multiply into float32.
struct FloatMac {
  using Element = float;
  static constexpr int kSteps = 1;
  using Vector = VF;
  static HWY_INLINE Vector Broadcast(const Element* from) { return hn::Set(DF(), *from); }
  static HWY_INLINE Vector Load(const Element* from) { return hn::LoadU(DF(), from); }
  static HWY_INLINE VF MulAdd(Vector a, Vector b, VF sum) { return hn::MulAdd(a, b, sum); }
};

#ifdef __AVX512BF16__
// An element is a pair of bfloat16 with consecutive k.
struct PairMac {
  using Element = uint32_t;
  static constexpr int kSteps = 2;
  using Vector = __m512bh;
  static HWY_INLINE Vector Broadcast(const Element* from) {
    return reinterpret_cast<Vector>(_mm512_set1_epi32(static_cast<int>(*from)));
  }
  static HWY_INLINE Vector Load(const Element* from) {
    return reinterpret_cast<Vector>(_mm512_loadu_si512(from));
  }
  static HWY_INLINE VF MulAdd(Vector a, Vector b, VF sum) {
    return VF{_mm512_dpbf16_ps(sum.raw, a, b)};
  }
};
#endif

// `value`, which stays in a register for several uses: GCC may read it from memory for each, as
// their operand, and then loads are what limits a loop.
HWY_INLINE VF InRegister(VF value) {
#if HWY_ARCH_X86
  asm("" : "+v"(value.raw));
#endif
  return value;
}

// load_a(m, k) and load_b(k, n) give Mac::Vector; `scale` null starts from zero.
template <class Mac, int kM, int kN, class LoadA, class LoadB>
HWY_INLINE void MicroBlock(int32_t steps, const LoadA& load_a, const LoadB& load_b, float* c,
                           size_t ldc, const float* scale) {
  const DF d;
  VF sum[kM][kN];
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) {
      sum[m][n] = scale == nullptr
                      ? hn::Zero(d)
                      : hn::Mul(hn::LoadU(d, c + m * ldc + n * kLanes), hn::Set(d, scale[m]));
    }
  }
  for (int32_t k = 0; k < steps; ++k) {
    typename Mac::Vector b[kN];
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) b[n] = load_b(k, n);
#pragma GCC unroll 8
    for (int m = 0; m < kM; ++m) {
      const typename Mac::Vector a = load_a(m, k);
#pragma GCC unroll 8
      for (int n = 0; n < kN; ++n) sum[m][n] = Mac::MulAdd(a, b[n], sum[m][n]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kM; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) hn::StoreU(sum[m][n], d, c + m * ldc + n * kLanes);
  }
}

// Element (row, k) of `a` is at row * row_stride + k * k_stride.
template <class Element>
struct Strided {
  const Element* data;
  size_t row_stride, k_stride;
};

template <class Mac, int kM, int kN>
void PackedBlock(int32_t steps, Strided<typename Mac::Element> a, const typename Mac::Element* b,
                 size_t ldb, float* c, size_t ldc, const float* scale) {
  MicroBlock<Mac, kM, kN>(
      steps,
      [a](int m, int32_t k) { return Mac::Broadcast(a.data + m * a.row_stride + k * a.k_stride); },
      [b, ldb](int32_t k, int n) { return Mac::Load(b + k * ldb + n * kLanes); }, c, ldc, scale);
}

// Calls block(m, row_count) in steps of kMicroRows, the count as a compile-time constant.
template <int kRows, class Block>
HWY_INLINE void LastRows(int32_t rows, int32_t at, const Block& block) {
  if constexpr (kRows > 0) {
    if (rows - at == kRows) return block(at, Constant<kRows>());
    LastRows<kRows - 1>(rows, at, block);
  }
}
template <int kRows, class Block>
HWY_INLINE void ForRowBlocks(int32_t rows, const Block& block) {
  int32_t at = 0;
  for (; at + kRows <= rows; at += kRows) block(at, Constant<kRows>());
  LastRows<kRows - 1>(rows, at, block);
}

// c[rows][columns] with packed operands; `columns` is a multiple of the vector.
template <class Mac>
void PackedProduct(int32_t rows, int32_t columns, int32_t steps, Strided<typename Mac::Element> a,
                   const typename Mac::Element* b, size_t ldb, float* c, size_t ldc,
                   const float* scale) {
  int32_t column = 0;
  const auto panel = [&](auto vectors) {
    constexpr int kN = decltype(vectors)::kValue;
    ForRowBlocks<kMicroRows>(rows, [&](int32_t row, auto count) {
      Strided<typename Mac::Element> at = a;
      at.data += row * a.row_stride;
      PackedBlock<Mac, decltype(count)::kValue, kN>(steps, at, b + column, ldb,
                                                    c + row * ldc + column, ldc,
                                                    scale == nullptr ? nullptr : scale + row);
    });
    column += kN * kLanes;
  };
  while (columns - column >= kMicroVectors * kLanes) panel(Constant<kMicroVectors>());
  while (columns - column >= 2 * kLanes) panel(Constant<2>());
  if (column < columns) panel(Constant<1>());
}

}  // namespace vk::VK_TIER
#endif  // VLLM_KERNELS_CPU_ATTENTION_MICRO_H_
