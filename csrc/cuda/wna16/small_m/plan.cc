#include "cuda/wna16/small_m/plan.h"

#include <algorithm>
#include <climits>
#include <iterator>

namespace vk::cuda::wna16 {
namespace {

struct SmallMShapeInfo {
  int token_tiles, packed_tiles, threads;
  int fragments;         // of the tile, that a cluster divides
  int rest_bytes;        // of shared memory beside the stages
  const int* tokens_at;  // bytes of a stage without tokens, by WeightType
  int token_bytes;       // of a stage
  int warps_k;
};

template <class S>
constexpr SmallMShapeInfo SmallMInfo() {
  return {S::kTokenTiles,
          S::kPackedTiles,
          S::kThreads,
          S::kAllFragments,
          sizeof(SmallMSharedStorage<S>),
          kStageBytes<SmallMStage, S>,
          S::kWarpsK * 128,
          S::kWarpsK};
}

#define VK_WNA16_SMALL_M_INFO(tokens, packed_tiles) SmallMInfo<SmallMShape<tokens, packed_tiles>>(),
constexpr SmallMShapeInfo kSmallMShapes[] = {VK_WNA16_SMALL_M_SHAPES(VK_WNA16_SMALL_M_INFO)};
#undef VK_WNA16_SMALL_M_INFO

// A kernel with one block an SM launches its dependents when so much is left to load: their weights
// then use the memory while this one finishes; any earlier, and they delay this one's. With
// clusters or two blocks an SM, they start when they can (measured on an H200).
constexpr int kLastBytes = 72 << 10;

constexpr int kAlignment = 1024;  // of swizzled tokens

}  // namespace

bool SmallMServes(int m, WeightType type, int group, bool per_channel) {
  return m >= 1 && m <= kSmallMTokens && ScalesServe(type, group, per_channel);
}

SmallMPlan MakeSmallMPlan(int m, int n, int k, WeightType type, const DeviceLimits& device) {
  const int chunks = k / 64;
  SmallMPlan best{};
  int best_score = INT_MIN;
  for (int shape = 0; shape < static_cast<int>(std::size(kSmallMShapes)); ++shape) {
    const SmallMShapeInfo& info = kSmallMShapes[shape];
    if (info.token_tiles != CeilDiv(m, 8)) continue;
    for (int cluster = 1; cluster <= 8; cluster *= 2) {
      if (info.fragments % cluster != 0) continue;
      if (cluster > 1 && chunks < cluster * info.warps_k) continue;
      // A GPC's SMs are no multiple of larger clusters; the clusters left over wait.
      if (cluster > 2 && 2 * cluster * CeilDiv(n / kPackedTileN, info.packed_tiles) > device.sms)
        continue;
      SmallMPlan plan{};
      plan.shape = shape;
      plan.cluster = cluster;
      plan.chunks = CeilDiv(chunks, cluster);
      plan.blocks = CeilDiv(n / kPackedTileN, info.packed_tiles) * cluster;
      plan.threads = info.threads;
      plan.columns = info.packed_tiles * kPackedTileN;
      plan.chunks_at_once = info.warps_k;
      plan.stage_bytes =
          RoundUp(info.tokens_at[static_cast<int>(type)] + m * info.token_bytes, kAlignment);
      // Two blocks an SM, each of which is charged 1 KiB more.
      const int half = (device.shared_bytes - 1024) / 2 - info.rest_bytes;
      const int steps = CeilDiv(plan.chunks, info.warps_k);
      // Two at least: the warps' sums meet in them.
      if (half / plan.stage_bytes < 2) continue;
      plan.stages = std::clamp(steps, 2, std::min(half / plan.stage_bytes, kSmallMMaxStages));
      const bool alone = cluster == 1 && plan.blocks <= device.sms;
      plan.last_steps =
          alone ? (kLastBytes + plan.stage_bytes / 2) / plan.stage_bytes : plan.chunks;
      plan.shared_bytes = plan.stages * plan.stage_bytes + info.rest_bytes;
      // As many blocks as SMs, or a little fewer: twice as many leave no room for the
      // next kernel's.
      const int waves = CeilDiv(plan.blocks, device.sms);
      int score = 1000 * plan.blocks / (waves * device.sms) - 30 * (info.packed_tiles - 1);
      if (waves == 2) score -= 10;
      if (waves > 2) score -= 50 * (waves - 2);
      if (score > best_score) {
        best_score = score;
        best = plan;
      }
    }
  }
  return best;
}

}  // namespace vk::cuda::wna16
