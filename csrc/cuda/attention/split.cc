#include "cuda/attention/split.h"

#include <algorithm>

#include "cuda/common/divide.h"

namespace vk::cuda::attention {
namespace {

// Of the splits that are chosen: more of them cost the merge more than they save.
constexpr int64_t kMostChosen = 128;

}  // namespace

SplitPlan PlanSplits(int64_t blocks, int64_t slots, int64_t max_keys, int32_t tile, int32_t warps) {
  // A split writes and the merge reads 8 bytes a row and column, so short splits only pay where
  // multiprocessors would be idle.
  const int64_t min_keys = blocks >= 2 * slots ? 2048 : blocks >= slots ? 1024 : 128;
  const int64_t min_tiles = std::max<int64_t>(CeilDiv(min_keys, tile), warps);
  const int64_t most = std::clamp<int64_t>(CeilDiv(max_keys, min_tiles * tile), 1, kMostChosen);
  // Share of the slots that are busy on average, over the waves that `splits` take.
  auto busy = [&](int64_t splits) {
    const double waves = static_cast<double>(blocks * splits) / static_cast<double>(slots);
    return waves / static_cast<double>(CeilDiv(blocks * splits, slots));
  };
  double best = 0;
  for (int64_t splits = 1; splits <= most; ++splits) best = std::max(best, busy(splits));
  int64_t splits = 1;
  while (busy(splits) < 0.95 * best) ++splits;
  while (splits < most && blocks * (splits + 1) <= slots) ++splits;  // none of a wave is left idle
  // Requests differ in length: one long request must not be the work of one block.
  splits = std::max(splits, std::min(most, CeilDiv(max_keys, 8192)));
  return {static_cast<int32_t>(splits), static_cast<int32_t>(min_tiles)};
}

int32_t SectionHeads(int32_t kv_heads, int64_t head_bytes, int64_t l2_bytes) {
  // Half of the L2 is what a multiprocessor reaches without crossing to the other half; a little
  // more than that still mostly hits.
  const int64_t room = l2_bytes / 2 + l2_bytes / 16;
  const int64_t sections =
      std::clamp<int64_t>(CeilDiv(kv_heads * head_bytes, std::max<int64_t>(room, 1)), 1, kv_heads);
  return static_cast<int32_t>(CeilDiv(kv_heads, sections));
}

}  // namespace vk::cuda::attention
