// How the keys of sparse multi-head latent attention are divided among blocks.
#include <algorithm>

#include "cuda/common/divide.h"
#include "cuda/mla/launch.h"

namespace vk::cuda::mla {
namespace {

// In pairs of stages: what a block costs beside its keys, and the merging of splits.
constexpr int64_t kBlockCost = 2, kMergeCost = 2;

}  // namespace

Plan ChoosePlan(int64_t rows, int64_t topk, int32_t multiprocessors) {
  const int64_t pairs = std::max<int64_t>(1, CeilDiv(topk, kPairKeys));
  Plan best{1, static_cast<int32_t>(pairs)};
  int64_t least = INT64_MAX;
  for (int64_t splits = 1; splits <= pairs; ++splits) {
    const int64_t each = CeilDiv(pairs, splits);
    if (CeilDiv(pairs, each) != splits) continue;  // the last would be empty
    const int64_t waves = CeilDiv(rows * splits, multiprocessors);
    const int64_t cost = waves * (each + kBlockCost) + (splits > 1 ? kMergeCost : 0);
    if (cost < least) {
      least = cost;
      best = {static_cast<int32_t>(splits), static_cast<int32_t>(each)};
    }
  }
  return best;
}

int32_t DenseTiles(int64_t queries, int64_t heads) {
  return static_cast<int32_t>(CeilDiv(queries * heads, kRows));
}

int32_t DenseParts(int64_t queries, int64_t heads, int32_t multiprocessors) {
  return std::max(1, multiprocessors / std::max(1, DenseTiles(queries, heads)));
}

}  // namespace vk::cuda::mla
