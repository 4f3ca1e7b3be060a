#include "cuda/wna16/large_m/plan.h"

#include <algorithm>

namespace vk::cuda::wna16 {
namespace {

struct LargeMShapeInfo {
  int tokens, columns, threads;
  bool exact;
  const int* stage_bytes;  // by WeightType
};

template <class S>
constexpr LargeMShapeInfo LargeMInfo() {
  return {S::kTokens, S::kColumns, S::kThreads, S::kExact, kStageBytes<LargeMStage, S>};
}

// Shared memory beside the stages; 1 KiB to align them.
constexpr int kRestBytes = sizeof(LargeMSharedStorage) + 1024;

#define VK_WNA16_LARGE_M_INFO(tokens, tiles, exact) LargeMInfo<LargeMShape<tokens, tiles, exact>>(),
constexpr LargeMShapeInfo kLargeMShapes[] = {VK_WNA16_LARGE_M_SHAPES(VK_WNA16_LARGE_M_INFO)};
#undef VK_WNA16_LARGE_M_INFO
constexpr int kLargeMShapeCount = sizeof(kLargeMShapes) / sizeof(kLargeMShapes[0]);

// For fewer, Marlin's kernel is faster.
constexpr int kLeastTokens = 33;
// From so many tokens on, blocks are those that round scaled weights, which are faster; for fewer,
// those that do not.
constexpr int kManyTokens = 128;
// Chunks of K that are worth a block of a cluster.
constexpr int kLeastChunks = 4;

// Nanoseconds on an H200: a chunk of K, what a block takes besides, more in a cluster, which adds
// up its sums, and another launch.
struct Times {
  int chunk, block, cluster, launch;
};
constexpr Times kTimes[] = {// by shape
                            {330, 3800, 5700, 2200},
                            {440, 4200, 6400, 2200},
                            {420, 3900, 5900, 2200},
                            {740, 4300, 6400, 2200},
                            {600, 4300, 6400, 2200}};
static_assert(sizeof(kTimes) / sizeof(kTimes[0]) == kLargeMShapeCount);

// A chunk where the last block of 256 tokens is cut, and there are few: such a block took longer
// than a whole one (with 160 and 300 tokens, which decided there; with 2000 it did not).
constexpr int kCutChunk = 800, kManyBlocks = 4;

Times TimesOf(int shape, int m) {
  Times times = kTimes[shape];
  const int tokens = kLargeMShapes[shape].tokens;
  if (tokens == 256 && m % tokens != 0 && m < kManyBlocks * tokens) times.chunk = kCutChunk;
  return times;
}

int64_t TimeOf(const LargeMPart& part, const LargeMClusters& clusters, const Times& times) {
  const int64_t waves = CeilDiv(part.tiles, clusters.most[part.cluster]);
  return waves *
         (int64_t{times.chunk} * part.chunks + (part.cluster > 1 ? times.cluster : times.block));
}

// The fastest way to `tiles` tiles in one launch.
LargeMPart BestPart(int first, int tiles, int chunks, const LargeMClusters& clusters,
                    const Times& times) {
  LargeMPart best{first, tiles, 1, chunks};
  for (int cluster = 2; cluster <= kLargeMMaxCluster; ++cluster) {
    const LargeMPart part{first, tiles, cluster,
                          static_cast<int>(RoundUp(CeilDiv(chunks, cluster), 2))};
    if (clusters.most[cluster] == 0 || part.chunks < kLeastChunks) break;
    if (part.chunks * (cluster - 1) >= chunks) continue;  // a block without K
    if (TimeOf(part, clusters, times) < TimeOf(best, clusters, times)) best = part;
  }
  return best;
}

struct Cut {
  int parts;
  LargeMPart part[2];
  int64_t time;
};

// In one launch, or in two: whole waves, and the tiles that are left over.
Cut CutTiles(int tiles, int chunks, int sms, const LargeMClusters& clusters, const Times& times) {
  const LargeMPart whole = BestPart(0, tiles, chunks, clusters, times);
  const Cut one{1, {whole}, TimeOf(whole, clusters, times)};
  const int full = tiles / sms * sms;
  if (full == 0 || full == tiles) return one;
  const LargeMPart waves{0, full, 1, chunks};
  const LargeMPart rest = BestPart(full, tiles - full, chunks, clusters, times);
  const int64_t time =
      TimeOf(waves, clusters, times) + TimeOf(rest, clusters, times) + times.launch;
  return time < one.time ? Cut{2, {waves, rest}, time} : one;
}

}  // namespace

bool LargeMServes(int m, int group, bool per_channel, WeightType type, bool half) {
  // Scales of FP8 weights lose bits in float16 without the factor that the engine gives them.
  const bool scales = !(type == WeightType::kFp8 && half && m >= kManyTokens && !per_channel);
  return m >= kLeastTokens && scales && ScalesServe(type, group, per_channel);
}

LargeMPlan MakeLargeMPlan(int m, int n, int k, WeightType type, const DeviceLimits& device,
                          const LargeMClusters& clusters) {
  LargeMPlan plan{};
  Cut best{};
  for (int shape = 0; shape < kLargeMShapeCount; ++shape) {
    const LargeMShapeInfo& info = kLargeMShapes[shape];
    if (info.exact != (m < kManyTokens)) continue;
    const int tiles = static_cast<int>(CeilDiv(m, info.tokens) * CeilDiv(n, info.columns));
    const Cut cut = CutTiles(tiles, k / 64, device.sms, clusters, TimesOf(shape, m));
    if (best.parts > 0 && cut.time >= best.time) continue;
    best = cut;
    plan.shape = shape;
  }
  plan.parts = best.parts;
  std::copy_n(best.part, best.parts, plan.part);
  const LargeMShapeInfo& info = kLargeMShapes[plan.shape];
  plan.tokens = info.tokens;
  plan.columns = info.columns;
  plan.threads = info.threads;
  const int stage_bytes = info.stage_bytes[static_cast<int>(type)];
  // All of it: the epilogue stages sums and rows there.
  plan.stages = std::min((device.shared_bytes - kRestBytes) / stage_bytes, kLargeMMaxStages);
  plan.shared_bytes = plan.stages * stage_bytes + kRestBytes;
  return plan;
}

}  // namespace vk::cuda::wna16
