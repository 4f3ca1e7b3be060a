#include "cpu/cache/cache.h"

#include "cpu/float8.h"

namespace vk::VK_TIER {
namespace {

// A row is one head, a few hundred bytes: a call of memcpy for each would cost as much as the copy.
void CopyRows(void* to, ptrdiff_t to_stride, const void* from, ptrdiff_t from_stride, size_t rows,
              size_t bytes) {
  using D = hn::ScalableTag<uint8_t>;
  const size_t lanes = hn::Lanes(D());
  uint8_t* out = static_cast<uint8_t*>(to);
  const uint8_t* in = static_cast<const uint8_t*>(from);
  for (size_t row = 0; row < rows; ++row, out += to_stride, in += from_stride) {
    size_t i = 0;
    for (; i + lanes <= bytes; i += lanes) hn::StoreU(hn::LoadU(D(), in + i), D(), out + i);
    if (i < bytes) __builtin_memcpy(out + i, in + i, bytes - i);
  }
}

template <class Format, class T>
void EncodeRows(void* to, ptrdiff_t to_stride, const void* from, ptrdiff_t from_stride, size_t rows,
                size_t count, float scale) {
  uint8_t* out = static_cast<uint8_t*>(to);
  const char* in = static_cast<const char*>(from);
  const VF divisor = hn::Set(DF(), scale);
  for (size_t row = 0; row < rows; ++row, out += to_stride, in += from_stride) {
    const T* values = reinterpret_cast<const T*>(in);
    ForVectors(count, [&](size_t first, size_t lanes) HWY_ATTR {
      const VF value = hn::Div(LoadUpTo(values + first, lanes), divisor);
      StoreFloat8<Format>(value, out + first, lanes);
    });
  }
}

#define VK_ENCODE(format)                                          \
  {EncodeRows<format, float>, EncodeRows<format, hwy::bfloat16_t>, \
   EncodeRows<format, hwy::float16_t>}

}  // namespace

extern const CacheTable cache_table;
const CacheTable cache_table = {CopyRows, {VK_ENCODE(E4m3), VK_ENCODE(E5m2)}};

}  // namespace vk::VK_TIER
