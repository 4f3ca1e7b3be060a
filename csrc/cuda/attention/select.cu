#include "cuda/attention/select.h"

#include "cuda/common/dtype.cuh"

namespace vk::cuda::attention {
namespace {

template <class T, class KV>
const Instance& BySize(int32_t head_size, bool fast) {
  if (!fast) return GetInstance<T, KV, 256, false>();
  if (head_size <= 64) return GetInstance<T, KV, 64, true>();
  if (head_size <= 128) return GetInstance<T, KV, 128, true>();
  if (head_size <= 192) return GetInstance<T, KV, 192, true>();
  return GetInstance<T, KV, 256, true>();
}

}  // namespace

const Instance& SelectInstance(int32_t dtype, bool fp8, int32_t head_size, bool fast) {
  if (dtype == VK_BF16) {
    return fp8 ? BySize<BFloat16, E4M3>(head_size, fast)
               : BySize<BFloat16, BFloat16>(head_size, fast);
  }
  return fp8 ? BySize<Half, E4M3>(head_size, fast) : BySize<Half, Half>(head_size, fast);
}

}  // namespace vk::cuda::attention
