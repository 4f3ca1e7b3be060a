// Weights of 8 and 4 bits to floats, each of which fits into a bfloat16 and a float16 without
// rounding, and what else makes numbers of products with them.
#include "cpu/gemm/gemm_table.h"
#include "cpu/packed/packed.h"
#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
constexpr size_t kLanes = kFloatLanes;

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
  static HWY_INLINE VF Value(VU32 code) {
    const auto wide = hn::ShiftRight<24>(hn::BitCast(DI(), hn::ShiftLeft<24>(code)));
    return hn::ConvertTo(DF(), wide);
  }
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
};

struct CodeE2m1 {
  static constexpr size_t kBits = 4;
  static HWY_INLINE VF Value(VU32 code) {
    const VF value = SmallFloat<1, 1>(hn::And(code, Word(7)));
    return WithSign(value, hn::ShiftLeft<28>(hn::And(code, Word(8))));
  }
};

// Two values of K of some columns, at `to` + `column` where row k begins.
template <class T>
HWY_INLINE void StorePair(VF first, VF second, T* to, size_t column) {
  StoreF32(first, to + column);
  StoreF32(second, to + kPanel + column);
}
HWY_INLINE void StorePair(VF first, VF second, hwy::bfloat16_t* to, size_t column) {
  const DU du;
  const VU32 low = hn::ShiftRight<16>(hn::BitCast(du, first));
  const VU32 high = hn::And(hn::BitCast(du, second), Word(0xFFFF0000u));
  hn::StoreU(hn::Or(low, high), du, reinterpret_cast<uint32_t*>(to) + column);
}

template <class Code, class T>
void Decode(const uint8_t* words, size_t rows, void* out) {
  constexpr size_t kValues = 32 / Code::kBits;
  const DU du;
  const hn::Repartition<uint8_t, DF> d8;
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

#define VK_CODED(Code) \
  {Decode<Code, float>, Decode<Code, hwy::bfloat16_t>, Decode<Code, hwy::float16_t>}

extern const PackedTable packed_table;
const PackedTable packed_table = {
    {{}, VK_CODED(CodeI8), VK_CODED(CodeE4m3), {}, VK_CODED(CodeE2m1)},
    AddGroup,
    Sum,
    {WidenRow<float>, WidenRow<hwy::bfloat16_t>, WidenRow<hwy::float16_t>},
    Scale,
    {AddBias<float>, AddBias<hwy::bfloat16_t>, AddBias<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
