#include "cuda/wna16/large_m/plan.h"

#include <algorithm>

namespace vk::cuda::wna16 {
namespace {

struct LargeMShapeInfo {
  int tokens, columns, threads;
  int stage_bytes[4];  // per WeightType
};

template <class S>
constexpr LargeMShapeInfo LargeMInfo() {
  return {S::kTokens,
          S::kColumns,
          S::kThreads,
          {sizeof(LargeMStage<S, WeightType::kU4B8>), sizeof(LargeMStage<S, WeightType::kU4>),
           sizeof(LargeMStage<S, WeightType::kU8B128>), sizeof(LargeMStage<S, WeightType::kFp8>)}};
}

// Shared memory beside the stages; 1 KiB to align them.
constexpr int kRestBytes = sizeof(LargeMSharedStorage) + 1024;

#define VK_WNA16_LARGE_M_INFO(tokens, tiles) LargeMInfo<LargeMShape<tokens, tiles>>(),
constexpr LargeMShapeInfo kLargeMShapes[] = {VK_WNA16_LARGE_M_SHAPES(VK_WNA16_LARGE_M_INFO)};
#undef VK_WNA16_LARGE_M_INFO

// For fewer, Marlin's kernel is faster.
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
  // As many blocks as SMs, if K suffices. Not four: the SMs of a GPC are no multiple of it, and the
  // clusters left over run after all others.
  if (2 * tiles <= device.sms && chunks >= 2 * kLeastChunks) plan.cluster = 2;
  plan.chunks = CeilDiv(chunks, plan.cluster);
  plan.blocks = tiles * plan.cluster;
  const int stage_bytes = info.stage_bytes[static_cast<int>(type)];
  // All of it: the epilogue stages sums and rows there.
  plan.stages = std::min((device.shared_bytes - kRestBytes) / stage_bytes, kLargeMMaxStages);
  plan.shared_bytes = plan.stages * stage_bytes + kRestBytes;
  return plan;
}

}  // namespace vk::cuda::wna16
