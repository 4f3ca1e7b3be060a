#include "cpu/rope/rope.h"

#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

constexpr size_t kMaxLanes = kFloatLanes;

struct Pair {
  VF x, y;
};

HWY_INLINE Pair Rotated(Pair p, VF cos, VF sin) {
  return {hn::NegMulAdd(p.y, sin, hn::Mul(p.x, cos)), hn::MulAdd(p.x, sin, hn::Mul(p.y, cos))};
}

// Adjacent components x0 y0 x1 y1 ... as two vectors. The 16-bit types are taken as one 32-bit
// lane a pair, which needs no shuffle.
using Words = hn::RebindToUnsigned<DF>;

HWY_INLINE Pair LoadPairs(const float* from) {
  hn::Vec<DF> x, y;
  hn::LoadInterleaved2(DF(), from, x, y);
  return {x, y};
}
HWY_INLINE void StorePairs(Pair pair, float* to) {
  hn::StoreInterleaved2(pair.x, pair.y, DF(), to);
}

HWY_INLINE Pair LoadPairs(const hwy::bfloat16_t* from) {
  const auto words = hn::LoadU(Words(), reinterpret_cast<const uint32_t*>(from));
  const auto upper = hn::And(words, hn::Set(Words(), 0xFFFF0000u));
  return {hn::BitCast(DF(), hn::ShiftLeft<16>(words)), hn::BitCast(DF(), upper)};
}
HWY_INLINE void StorePairs(Pair pair, hwy::bfloat16_t* to) {
  const auto x = hn::BitCast(Words(), RoundTo<hwy::bfloat16_t>(pair.x));
  const auto y = hn::BitCast(Words(), RoundTo<hwy::bfloat16_t>(pair.y));
  hn::StoreU(hn::Or(hn::ShiftRight<16>(x), y), Words(), reinterpret_cast<uint32_t*>(to));
}

HWY_INLINE Pair LoadPairs(const hwy::float16_t* from) {
  const hn::Rebind<hwy::float16_t, DF> half;
  const hn::RebindToUnsigned<decltype(half)> bits;
  const auto words = hn::LoadU(Words(), reinterpret_cast<const uint32_t*>(from));
  const auto x = hn::BitCast(half, hn::TruncateTo(bits, words));
  const auto y = hn::BitCast(half, hn::TruncateTo(bits, hn::ShiftRight<16>(words)));
  return {hn::PromoteTo(DF(), x), hn::PromoteTo(DF(), y)};
}
HWY_INLINE void StorePairs(Pair pair, hwy::float16_t* to) {
  const hn::Rebind<hwy::float16_t, DF> half;
  const hn::RebindToUnsigned<decltype(half)> bits;
  const auto x = hn::PromoteTo(Words(), hn::BitCast(bits, hn::DemoteTo(half, pair.x)));
  const auto y = hn::PromoteTo(Words(), hn::BitCast(bits, hn::DemoteTo(half, pair.y)));
  hn::StoreU(hn::Or(x, hn::ShiftLeft<16>(y)), Words(), reinterpret_cast<uint32_t*>(to));
}

// How the pairs `i` to `i + n` of a head of `half` pairs are read and written.
struct Neox {
  template <class T>
  static HWY_INLINE Pair Load(const T* head, size_t half, size_t i, size_t n) {
    return {LoadUpTo(head + i, n), LoadUpTo(head + half + i, n)};
  }
  template <class T>
  static HWY_INLINE void Store(Pair pair, T* head, size_t half, size_t i, size_t n) {
    StoreUpTo(pair.x, head + i, n);
    StoreUpTo(pair.y, head + half + i, n);
  }
};

struct Gptj {
  template <class T>
  static HWY_INLINE Pair Load(const T* head, size_t, size_t i, size_t n) {
    if (HWY_LIKELY(n == hn::Lanes(DF()))) return LoadPairs(head + 2 * i);
    T rest[2 * kMaxLanes] = {};
    __builtin_memcpy(rest, head + 2 * i, 2 * n * sizeof(T));
    return LoadPairs(rest);
  }
  template <class T>
  static HWY_INLINE void Store(Pair pair, T* head, size_t, size_t i, size_t n) {
    if (HWY_LIKELY(n == hn::Lanes(DF()))) return StorePairs(pair, head + 2 * i);
    T rest[2 * kMaxLanes];
    StorePairs(pair, rest);
    __builtin_memcpy(head + 2 * i, rest, 2 * n * sizeof(T));
  }
};

// Heads are the inner loop: a vector of cosines and sines is read and converted once a token.
template <class Layout, class T, class Cache>
void Rotate(void* heads, size_t count, ptrdiff_t stride, const void* cos_sin, size_t half_dim,
            bool inverse) {
  const Cache* cos_row = static_cast<const Cache*>(cos_sin);
  const Cache* sin_row = cos_row + half_dim;
  const VF sign = inverse ? hn::SignBit(DF()) : hn::Zero(DF());
  ForVectors(half_dim, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    const VF cos = LoadUpTo(cos_row + i, n);
    const VF sin = hn::Xor(LoadUpTo(sin_row + i, n), sign);
    T* head = static_cast<T*>(heads);
    for (size_t h = 0; h < count; ++h, head += stride) {
      Layout::Store(Rotated(Layout::Load(head, half_dim, i, n), cos, sin), head, half_dim, i, n);
    }
  });
}

using hwy::bfloat16_t;
using hwy::float16_t;

}  // namespace

#define VK_ROTATE(Layout)                                                          \
  {                                                                                \
      {Rotate<Layout, float, float>, Rotate<Layout, float, float>},                \
      {Rotate<Layout, bfloat16_t, bfloat16_t>, Rotate<Layout, bfloat16_t, float>}, \
      {Rotate<Layout, float16_t, float16_t>, Rotate<Layout, float16_t, float>},    \
  }

extern const RopeTable rope_table;
const RopeTable rope_table = {VK_ROTATE(Neox), VK_ROTATE(Gptj)};

}  // namespace vk::VK_TIER
