#include "cuda/wna16/large_m/plan.h"

#include <algorithm>

namespace vk::cuda::wna16 {
namespace {

struct LargeMShapeInfo {
  int tokens, columns, threads;
  int stage_bytes[4];  // per WeightType
};

template <class S, WeightType kType>
constexpr int StageBytes() {
  return LargeMStage<S, kType>::kBytes;
}

template <class S>
constexpr LargeMShapeInfo LargeMInfo() {
  return {S::kTokens,
          S::kColumns,
          S::kThreads,
          {StageBytes<S, WeightType::kU4B8>(), StageBytes<S, WeightType::kU4>(),
           StageBytes<S, WeightType::kU8B128>(), StageBytes<S, WeightType::kFp8>()}};
}

#define VK_WNA16_LARGE_M_INFO(tokens, tiles) LargeMInfo<LargeMShape<tokens, tiles>>(),
constexpr LargeMShapeInfo kLargeMShapes[] = {VK_WNA16_LARGE_M_SHAPES(VK_WNA16_LARGE_M_INFO)};
#undef VK_WNA16_LARGE_M_INFO

// For fewer, the kernel of all GPUs is faster.
constexpr int kLeastTokens = 33;
// From so many tokens on, blocks are those of 128, which round scaled weights.
constexpr int kManyTokens = 128;
// Chunks of K that are worth a block of a cluster.
constexpr int kLeastChunks = 4;

}  // namespace

bool LargeMServes(int m, int group, bool per_channel, WeightType type, bool half) {
  // Scales of FP8 weights lose bits in float16 without the factor that the engine gives them.
  const bool scales = !(type == WeightType::kFp8 && half && m >= kManyTokens && !per_channel);
  return m >= kLeastTokens && scales && (per_channel || group % 64 == 0);
}

LargeMPlan MakeLargeMPlan(int m, int n, int k, WeightType type, const DeviceLimits& device) {
  LargeMPlan plan{};
  plan.shape = m >= kManyTokens ? 1 : 0;
  const LargeMShapeInfo& info = kLargeMShapes[plan.shape];
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
  plan.stages = std::min((device.shared_bytes - kLargeMRestBytes) / stage_bytes, kLargeMMaxStages);
  plan.shared_bytes = plan.stages * stage_bytes + kLargeMRestBytes;
  return plan;
}

}  // namespace vk::cuda::wna16
