#include "cuda/attention/select.h"

#include "cuda/common/dtype.cuh"

namespace vk::cuda::attention {
namespace {

template <class T, class KV>
const Instance& BySize(int32_t head_size) {
  if (head_size <= 64) return GetInstance<T, KV, 64>();
  if (head_size <= 128) return GetInstance<T, KV, 128>();
  if (head_size <= 192) return GetInstance<T, KV, 192>();
  return GetInstance<T, KV, 256>();
}

}  // namespace

const Instance& SelectInstance(int32_t dtype, bool fp8, int32_t head_size) {
  if (dtype == VK_BF16) {
    return fp8 ? BySize<BFloat16, E4M3>(head_size) : BySize<BFloat16, BFloat16>(head_size);
  }
  return fp8 ? BySize<Half, E4M3>(head_size) : BySize<Half, Half>(head_size);
}

}  // namespace vk::cuda::attention
