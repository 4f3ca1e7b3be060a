#include "cpu/all_reduce/all_reduce.h"

#include "cpu/vec.h"

namespace vk::VK_TIER {
namespace {

template <class T>
void Sum(void* out, const void* const* parts, size_t ranks, size_t count) {
  T* to = static_cast<T*>(out);
  ForVectors(count, [=](size_t i, size_t n) VK_INLINE_LAMBDA {
    VF sum = LoadUpTo(static_cast<const T*>(parts[0]) + i, n);
    for (size_t rank = 1; rank < ranks; ++rank) {
      sum = hn::Add(sum, LoadUpTo(static_cast<const T*>(parts[rank]) + i, n));
    }
    StoreUpTo(sum, to + i, n);
  });
}

}  // namespace

extern const AllReduceTable all_reduce_table;
const AllReduceTable all_reduce_table = {
    {Sum<float>, Sum<hwy::bfloat16_t>, Sum<hwy::float16_t>},
};

}  // namespace vk::VK_TIER
