#include "cuda/wna16/wide_plan.h"

#include <algorithm>

#include "cuda/wna16/stream_plan.h"

namespace vk::wna16 {
namespace {

struct WideShapeInfo {
  int tokens, columns, threads;
  int stage_bytes[4];  // per WeightType
};

template <class S, WeightType kType>
constexpr int StageBytes() {
  return WideStage<S, kType>::kBytes;
}

template <class S>
constexpr WideShapeInfo WideInfo() {
  return {S::kTokens,
          S::kColumns,
          S::kThreads,
          {StageBytes<S, WeightType::kU4B8>(), StageBytes<S, WeightType::kU4>(),
           StageBytes<S, WeightType::kU8B128>(), StageBytes<S, WeightType::kFp8>()}};
}

#define VK_WNA16_WIDE_INFO(tokens, tiles) WideInfo<WideShape<tokens, tiles>>(),
constexpr WideShapeInfo kWideShapes[] = {VK_WNA16_WIDE_SHAPES(VK_WNA16_WIDE_INFO)};
#undef VK_WNA16_WIDE_INFO

// For fewer, the kernel of all GPUs is faster.
constexpr int kLeastTokens = 33;
// From so many tokens on, blocks are those of 128, which round scaled weights.
constexpr int kManyTokens = 128;
// Chunks of K that are worth a block of a cluster.
constexpr int kLeastChunks = 4;

int CeilDiv(int x, int y) { return (x + y - 1) / y; }

}  // namespace

bool WideServes(int m, int group, bool per_channel, WeightType type, bool half) {
  // Scales of FP8 weights lose bits in float16 without the factor that the engine gives them.
  const bool scales = !(type == WeightType::kFp8 && half && m >= kManyTokens && !per_channel);
  return m >= kLeastTokens && scales && (per_channel || group % 64 == 0);
}

WidePlan MakeWidePlan(int m, int n, int k, WeightType type, const DeviceLimits& device) {
  WidePlan plan{};
  plan.shape = m >= kManyTokens ? 1 : 0;
  const WideShapeInfo& info = kWideShapes[plan.shape];
  plan.tokens = info.tokens;
  plan.threads = info.threads;
  const int chunks = k / 64;
  const int tiles = CeilDiv(m, info.tokens) * CeilDiv(n, info.columns);
  plan.cluster = 1;
  // As many blocks as multiprocessors, if K suffices. Not four: GPUs have groups of multiprocessors
  // whose number is no multiple of it, and the clusters left over run after all others.
  if (2 * tiles <= device.sms && chunks >= 2 * kLeastChunks) plan.cluster = 2;
  plan.chunks = CeilDiv(chunks, plan.cluster);
  plan.blocks = tiles * plan.cluster;
  const int stage_bytes = info.stage_bytes[static_cast<int>(type)];
  // All that there are: sums and rows pass there in the end.
  plan.stages = std::min((device.shared_bytes - kWideRest) / stage_bytes, kMaxWideStages);
  plan.shared_bytes = plan.stages * stage_bytes + kWideRest;
  return plan;
}

}  // namespace vk::wna16
