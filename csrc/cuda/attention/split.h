// How a decode request's keys are split: the same arithmetic on host and device.
#ifndef VLLM_KERNELS_CUDA_ATTENTION_SPLIT_H_
#define VLLM_KERNELS_CUDA_ATTENTION_SPLIT_H_

#include <cstdint>

#ifdef __CUDACC__
#define VK_HOST_DEVICE __host__ __device__
#else
#define VK_HOST_DEVICE
#endif

namespace vk::cuda::attention {

constexpr int32_t kMaxSplits = 256;

// Tiles of one split where `total` tiles go to at most `splits` of at least `minimum`.
VK_HOST_DEVICE inline int32_t SplitLength(int32_t total, int32_t splits, int32_t minimum) {
  const int32_t even = (total + splits - 1) / splits;
  return even > minimum ? even : minimum;
}

// n / divisor = n * factor >> shift for 0 <= n < 2^31 and 1 <= divisor < 2^31: the factor is
// 2^shift / divisor rounded up, and what rounding adds stays below one as 2^(shift - 31) >=
// divisor.
struct Reciprocal {
  explicit constexpr Reciprocal(uint32_t divisor) : factor(0), shift(31) {
    while (uint64_t{1} << (shift - 31) < divisor) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << shift) + divisor - 1) / divisor);
  }
  uint32_t factor;
  int32_t shift;
};

struct SplitPlan {
  int32_t splits;
  int32_t min_tiles;
};

// `blocks` of work without a split, for `slots` blocks at once; at most `max_keys` keys in tiles of
// `tile`, a warp a tile.
SplitPlan PlanSplits(int64_t blocks, int64_t slots, int64_t max_keys, int32_t tile, int32_t warps);

// Key/value heads of `head_bytes` keys and values each whose prefill is done together, so that
// these are read from L2: as equal shares of the heads as there are, since the long tiles of a
// small last share would be all that is left to do.
int32_t SectionHeads(int32_t kv_heads, int64_t head_bytes, int64_t l2_bytes);

}  // namespace vk::cuda::attention
#endif  // VLLM_KERNELS_CUDA_ATTENTION_SPLIT_H_
