// Weights of 8 and 4 bits to floats, each of which fits into a bfloat16 and a float16 without
// rounding, and what else makes numbers of products with them.
#include "cpu/gemm/gemm_dot.h"
#include "cpu/gemm/gemm_tier.h"
#include "cpu/packed/packed.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

using D8 = hn::Repartition<uint8_t, DF>;
using VU8 = hn::Vec<D8>;

HWY_INLINE VU32 Word(uint32_t value) { return hn::Set(DU(), value); }

// A float of few bits, `kMantissa` of them of the mantissa, from its bits without the sign.
template <int kMantissa, int kBias>
HWY_INLINE VF SmallFloat(VU32 magnitude) {
  const DF df;
  const VU32 bits = hn::ShiftLeft<23 - kMantissa>(magnitude);
  const VF normal = hn::BitCast(df, hn::Add(bits, Word((127u - kBias) << 23)));
  // Exponent 0: with the implied one, which is then taken off. No float here is subnormal.
  const VF more = hn::BitCast(df, hn::Add(bits, Word((128u - kBias) << 23)));
  const VF one = hn::BitCast(df, Word((128u - kBias) << 23));
  const auto subnormal = hn::RebindMask(df, hn::Lt(magnitude, Word(1u << kMantissa)));
  return hn::IfThenElse(subnormal, hn::Sub(more, one), normal);
}

HWY_INLINE VF WithSign(VF value, VU32 sign) {
  return hn::BitCast(DF(), hn::Or(hn::BitCast(DU(), value), sign));
}

struct CodeI8 {
  static constexpr size_t kBits = 8;
  template <int kPlace>
  static HWY_INLINE VF At(VU32 word) {
    const auto wide = hn::ShiftRight<24>(hn::BitCast(DI(), hn::ShiftLeft<24 - 8 * kPlace>(word)));
    return hn::ConvertTo(DF(), wide);
  }
  static HWY_INLINE VF Value(VU32 code) { return At<0>(code); }
};

// The bits of a bfloat16 that is `mantissa` * 2^`exponent`.
constexpr uint32_t BfloatBits(uint32_t mantissa, int exponent) {
  if (mantissa == 0) return 0;
  uint32_t biased = static_cast<uint32_t>(exponent + 127 + 7);
  for (; mantissa < 128; mantissa *= 2) --biased;
  return biased << 7 | (mantissa & 127);
}

// The two bytes of a bfloat16, by 4 bits.
struct ByteTables {
  alignas(16) uint8_t low[16] = {}, high[16] = {};
};

struct CodeE4m3 {
  static constexpr size_t kBits = 8;
  static HWY_INLINE VF Value(VU32 code) {
    const VU32 magnitude = hn::And(code, Word(0x7F));
    const auto nan = hn::RebindMask(DF(), hn::Eq(magnitude, Word(0x7F)));
    const VF value =
        hn::IfThenElse(nan, hn::BitCast(DF(), Word(0x7FC00000u)), SmallFloat<3, 7>(magnitude));
    return WithSign(value, hn::ShiftLeft<24>(hn::And(code, Word(0x80))));
  }

  // Values 0 and 1 of K of four columns, then 2 and 3.
  alignas(16) static constexpr uint8_t kOrder[16] = {0, 1, 4, 5, 8,  9,  12, 13,
                                                     2, 3, 6, 7, 10, 11, 14, 15};

  // Codes from 16 on: the lower half is the lower byte, but for its place. The upper one has the
  // sign and the rest of the exponent.
  static constexpr uint32_t kFirst = BfloatBits(8, -10) >> 8;  // of exponents 0 and 1
  static constexpr ByteTables MakeUpper() {
    ByteTables table;
    for (uint32_t i = 0; i < 16; ++i) {
      table.high[i] = static_cast<uint8_t>((i & 8) << 4 | (kFirst + (i & 7)));
    }
    return table;
  }
  // Where the codes below, half of which are subnormal, differ from that.
  static constexpr ByteTables MakeDifference() {
    ByteTables table;
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t bits = BfloatBits(i, -9) ^ (kFirst << 8 | i << 4);
      table.low[i] = static_cast<uint8_t>(bits & 0xFF);
      table.high[i] = static_cast<uint8_t>(bits >> 8);
    }
    return table;
  }

  static HWY_INLINE void Bytes(VU8 codes, VU8& low, VU8& high) {
    static constexpr ByteTables kUpper = MakeUpper(), kDifference = MakeDifference();
    const D8 d8;
    const VU8 magnitude = hn::And(codes, hn::Set(d8, uint8_t{0x7F}));
    // 0x80 and more, for which nothing is looked up, from code 16 on.
    VU8 few = hn::Add(magnitude, hn::Set(d8, uint8_t{0x70}));
#if !HWY_ARCH_X86  // whose instruction does not look at bits 4 to 6
    few = hn::And(few, hn::Set(d8, uint8_t{0x8F}));
#endif
    const VU8 nan = hn::VecFromMask(d8, hn::Eq(magnitude, hn::Set(d8, uint8_t{0x7F})));
    const VU8 upper =
        hn::TableLookupBytes(hn::LoadDup128(d8, kUpper.high), hn::ShiftRight<4>(codes));
    low = hn::Xor(hn::ShiftLeft<4>(codes),
                  hn::TableLookupBytesOr0(hn::LoadDup128(d8, kDifference.low), few));
    high = hn::Xor(upper, hn::TableLookupBytesOr0(hn::LoadDup128(d8, kDifference.high), few));
    high = hn::Or(high, nan);  // the exponent's last bit and the mantissa are low's: 0xF0
  }
};

struct CodeE2m1 {
  static constexpr size_t kBits = 4;
  static HWY_INLINE VF Value(VU32 code) {
    const VF value = SmallFloat<1, 1>(hn::And(code, Word(7)));
    return WithSign(value, hn::ShiftLeft<28>(hn::And(code, Word(8))));
  }

  // The pairs 0, 1, 2 and 3 of K, of four columns each.
  alignas(16) static constexpr uint8_t kOrder[16] = {0, 4, 8,  12, 1, 5, 9,  13,
                                                     2, 6, 10, 14, 3, 7, 11, 15};

  static constexpr ByteTables MakeValues() {
    ByteTables table;
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t exponent = i >> 1 & 3;
      const uint32_t bits = exponent == 0 ? BfloatBits(i & 1, -1)
                                          : BfloatBits(2 + (i & 1), static_cast<int>(exponent) - 2);
      table.low[i] = static_cast<uint8_t>(bits & 0xFF);
      table.high[i] = static_cast<uint8_t>((i & 8) << 4 | bits >> 8);
    }
    return table;
  }

  static HWY_INLINE void Bytes(VU8 codes, VU8& low, VU8& high) {
    static constexpr ByteTables kValues = MakeValues();
    low = hn::TableLookupBytes(hn::LoadDup128(D8(), kValues.low), codes);
    high = hn::TableLookupBytes(hn::LoadDup128(D8(), kValues.high), codes);
  }
};

// Two values of K of some columns, as packed bfloat16.
HWY_INLINE VU32 Pair(VF first, VF second) {
  const DU du;
  const VU32 low = hn::ShiftRight<16>(hn::BitCast(du, first));
  return hn::Or(low, hn::And(hn::BitCast(du, second), Word(0xFFFF0000u)));
}

// The same at `to` + `column` where row k begins.
template <class T>
HWY_INLINE void StorePair(VF first, VF second, T* to, size_t column) {
  StoreF32(first, to + column);
  StoreF32(second, to + kPanel + column);
}
HWY_INLINE void StorePair(VF first, VF second, hwy::bfloat16_t* to, size_t column) {
  hn::StoreU(Pair(first, second), DU(), reinterpret_cast<uint32_t*>(to) + column);
}

template <class Code, class T>
void Decode(const uint8_t* words, size_t rows, void* out) {
  constexpr size_t kValues = 32 / Code::kBits;
  const DU du;
  const D8 d8;
  const VU32 mask = Word((1u << Code::kBits) - 1);
  for (size_t column = 0; column < kPanel; column += kLanes) {
    const uint8_t* from = words + column * sizeof(uint32_t);
    T* to = static_cast<T*>(out);
    for (size_t row = 0; row < rows; ++row, from += kPanel * sizeof(uint32_t)) {
      VU32 word = hn::BitCast(du, hn::LoadU(d8, from));
      for (size_t i = 0; i < kValues; i += 2, to += 2 * kPanel) {
        const VF first = Code::Value(hn::And(word, mask));
        word = hn::ShiftRight<Code::kBits>(word);
        const VF second = Code::Value(hn::And(word, mask));
        word = hn::ShiftRight<Code::kBits>(word);
        StorePair(first, second, to, column);
      }
    }
  }
}

// Calls body(i, pair) for the pairs i of K in one vector of words. A float's two bytes are looked
// up: codes of pairs of K lie together before that, those of four columns in a block of 16 bytes,
// so that interleaving both bytes gives packed bfloat16.
template <class Code, class Body>
HWY_INLINE void ForPairs(VU8 words, const Body& body) {
  const D8 d8;
  const auto both = [&](size_t i, VU8 codes) VK_INLINE_LAMBDA {
    VU8 low, high;
    Code::Bytes(codes, low, high);
    body(i, hn::BitCast(DU(), hn::InterleaveLower(d8, low, high)));
    body(i + 1, hn::BitCast(DU(), hn::InterleaveUpper(d8, low, high)));
  };
  const VU8 codes = hn::TableLookupBytes(words, hn::LoadDup128(d8, Code::kOrder));
  if constexpr (Code::kBits == 8) {
    both(0, codes);
  } else {
    const VU8 even = hn::And(codes, hn::Set(d8, uint8_t{15})), odd = hn::ShiftRight<4>(codes);
    both(0, hn::InterleaveLower(d8, even, odd));
    both(2, hn::InterleaveUpper(d8, even, odd));
  }
}

constexpr size_t kWordRowBytes = kPanel * sizeof(uint32_t);

// The same to bfloat16 for floats.
template <class Code>
void DecodePairs(const uint8_t* words, size_t rows, void* out) {
  const D8 d8;
  for (size_t column = 0; column < kWordRowBytes; column += kVectorBytes) {
    const uint8_t* from = words + column;
    uint8_t* to = static_cast<uint8_t*>(out) + column;
    for (size_t row = 0; row < rows; ++row, from += kWordRowBytes) {
      __builtin_prefetch(from + kFetchAhead, 0, 2);
      ForPairs<Code>(hn::LoadU(d8, from), [&](size_t, VU32 pair) VK_INLINE_LAMBDA {
        hn::StoreU(pair, DU(), reinterpret_cast<uint32_t*>(to));
        to += kWordRowBytes;
      });
    }
  }
}

#if !VK_GEMM_MMA
template <class T>
struct DotOf;
template <>
struct DotOf<float> : DotF32 {};
template <>
struct DotOf<hwy::bfloat16_t> : DotBf16 {};
template <>
struct DotOf<hwy::float16_t> : DotF16 {};

template <class T>
constexpr size_t kValueBytes = kABytes<DotOf<T>> / DotOf<T>::kDepth;

// One row of A times the values in a vector of words, in the order in which gemm's kernels add
// them.
template <class Code, class T>
HWY_INLINE void AddWords(VF& sum, VU8 words, const char* a) {
  constexpr bool kPairs = kValueBytes<T> < sizeof(float);
  const auto add = [&](size_t i, VF value) VK_INLINE_LAMBDA {
    sum = hn::MulAdd(BroadcastFloat(a + i * sizeof(float)), value, sum);
#if HWY_ARCH_X86
    asm("" : "+v"(sum.raw));  // GCC would spill sums, not constants
#endif
  };
  const auto add_pair = [&](size_t i, VU32 pair) VK_INLINE_LAMBDA {
    if constexpr (kPairs) {
#if defined(__AVX512BF16__)
      using Dot = DotOf<T>;
      sum = Dot::Add(sum, Dot::Broadcast(a + i * kPartABytes), (__m512bh)pair.raw);
#endif
    } else {
      add(2 * i, hn::BitCast(DF(), hn::ShiftLeft<16>(pair)));
      add(2 * i + 1, hn::BitCast(DF(), hn::And(pair, Word(0xFFFF0000u))));
    }
  };
  if constexpr (hwy::IsSame<Code, CodeI8>()) {
    const VU32 word = hn::BitCast(DU(), words);
    if constexpr (kPairs) {
      add_pair(0, Pair(Code::template At<0>(word), Code::template At<1>(word)));
      add_pair(1, Pair(Code::template At<2>(word), Code::template At<3>(word)));
    } else {
      add(0, Code::template At<0>(word));
      add(1, Code::template At<1>(word));
      add(2, Code::template At<2>(word));
      add(3, Code::template At<3>(word));
    }
  } else {
    ForPairs<Code>(words, add_pair);
  }
}

template <class Code, class T>
void MultiplyRow(const uint8_t* words, size_t rows, const OneRow& a, const float* scales,
                 float* sums, bool first) {
  // Vectors of a panel that are summed at once: enough to hide the latency of their additions.
  constexpr size_t kVectors = 4, kStripBytes = kVectors * kVectorBytes;
  constexpr size_t kRowABytes = 32 / Code::kBits * kValueBytes<T>;
  static_assert(kWordRowBytes % kStripBytes == 0);
  const DF df;
  const size_t gap = a.step_stride - a.step_bytes;
  for (size_t strip = 0; strip < kWordRowBytes; strip += kStripBytes) {
    VF sum[kVectors];
    for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::Zero(df);
    const uint8_t* from = words + strip;
    const char* row_a = a.values;
    const char* step_end = gap == 0 ? nullptr : row_a + a.step_bytes;
    for (size_t row = 0; row < rows; ++row, from += kWordRowBytes) {
      for (size_t i = 0; i < kStripBytes; i += 64) {
        __builtin_prefetch(from + kFetchAhead + i, 0, 2);
      }
      for (size_t v = 0; v < kVectors; ++v) {
        AddWords<Code, T>(sum[v], hn::LoadU(D8(), from + v * kVectorBytes), row_a);
      }
      row_a += kRowABytes;
      if (HWY_UNLIKELY(row_a == step_end)) {
        row_a += gap;
        step_end += a.step_stride;
      }
    }
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t column = strip / sizeof(uint32_t) + v * kLanes;
      const VF scale = hn::LoadU(df, scales + column);
      float* to = sums + column;
      hn::StoreU(first ? hn::Mul(sum[v], scale) : hn::MulAdd(sum[v], scale, hn::LoadU(df, to)), df,
                 to);
    }
  }
}

template <class Code, class T>
constexpr PackedTable::MultiplyRow* kMultiplyRow = MultiplyRow<Code, T>;
#else
template <class Code, class T>
constexpr PackedTable::MultiplyRow* kMultiplyRow = nullptr;
template <class T>
constexpr size_t kValueBytes = 0;
#endif

void Scale(float* to, const float* sums, const float* scales, size_t rows, bool first) {
  const DF df;
  for (size_t row = 0; row < rows; ++row, to += kPanel, sums += kPanel) {
    for (size_t i = 0; i < kPanel; i += kLanes) {
      const VF sum = hn::LoadU(df, sums + i), scale = hn::LoadU(df, scales + i);
      hn::StoreU(first ? hn::Mul(sum, scale) : hn::MulAdd(sum, scale, hn::LoadU(df, to + i)), df,
                 to + i);
    }
  }
}

void AddGroup(float* sums, const PackedGroup& group) {
  const DF df;
  const DI di;
  const hn::Rebind<int8_t, DF> d8;
  for (size_t i = 0; i < kPanel; i += kLanes) {
    const VF scale = hn::LoadU(df, group.scales + i);
    const auto zero = hn::PromoteTo(di, hn::LoadU(d8, group.zeros + i));
    for (size_t row = 0; row < group.rows; ++row) {
      float* to = sums + row * kPanel + i;
      auto product = hn::LoadU(di, group.products + row * kPanel + i);
      if (group.row_sums != nullptr) {
        product = hn::Sub(product, hn::Mul(hn::Set(di, group.row_sums[row]), zero));
      }
      const VF value = hn::ConvertTo(df, product);
      VF sum = group.first ? hn::Mul(value, scale) : hn::MulAdd(value, scale, hn::LoadU(df, to));
      if (group.row_scales != nullptr) sum = hn::Mul(sum, hn::Set(df, group.row_scales[row]));
      hn::StoreU(sum, df, to);
    }
  }
}

int32_t Sum(const int8_t* values, size_t count) {
  const DI di;
  const hn::Rebind<int8_t, DF> d8;
  auto sum = hn::Zero(di);
  ForVectors(count, [&](size_t i, size_t n) VK_INLINE_LAMBDA {
    const auto few = n == kLanes ? hn::LoadU(d8, values + i) : hn::LoadN(d8, values + i, n);
    sum = hn::Add(sum, hn::PromoteTo(di, few));
  });
  return hn::ReduceSum(di, sum);
}

template <class T>
void AddBias(float* sums, size_t stride, size_t rows, const void* bias, size_t count) {
  const T* from = static_cast<const T*>(bias);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF value = LoadUpTo(from + i, n);
    for (size_t row = 0; row < rows; ++row) {
      float* to = sums + row * stride + i;
      StoreUpTo(hn::Add(LoadUpTo(to, n), value), to, n);
    }
  });
}

}  // namespace

extern const PackedTable packed_table;
const PackedTable packed_table = {
    {{},
     {Decode<CodeI8, float>, Decode<CodeI8, hwy::bfloat16_t>, Decode<CodeI8, hwy::float16_t>},
     {Decode<CodeE4m3, float>, DecodePairs<CodeE4m3>, Decode<CodeE4m3, hwy::float16_t>},
     {},
     {Decode<CodeE2m1, float>, DecodePairs<CodeE2m1>, Decode<CodeE2m1, hwy::float16_t>}},
    {{},
     {kMultiplyRow<CodeI8, float>, kMultiplyRow<CodeI8, hwy::bfloat16_t>,
      kMultiplyRow<CodeI8, hwy::float16_t>},
     {kMultiplyRow<CodeE4m3, float>, kMultiplyRow<CodeE4m3, hwy::bfloat16_t>,
      kMultiplyRow<CodeE4m3, hwy::float16_t>},
     {},
     {kMultiplyRow<CodeE2m1, float>, kMultiplyRow<CodeE2m1, hwy::bfloat16_t>,
      kMultiplyRow<CodeE2m1, hwy::float16_t>}},
    {kValueBytes<float>, kValueBytes<hwy::bfloat16_t>, kValueBytes<hwy::float16_t>},
    AddGroup,
    Sum,
    {WidenRow<float>, WidenRow<hwy::bfloat16_t>, WidenRow<hwy::float16_t>},
    Scale,
    {AddBias<float>, AddBias<hwy::bfloat16_t>, AddBias<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
