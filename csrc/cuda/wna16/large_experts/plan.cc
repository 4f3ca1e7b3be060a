#include "cuda/wna16/large_experts/plan.h"

#include <algorithm>

namespace vk::cuda::wna16 {
namespace {

struct LargeExpertsShapeInfo {
  int tokens, columns, threads, rest_bytes;
  const int* stage_bytes;  // by WeightType
};

template <class S>
constexpr LargeExpertsShapeInfo ExpertsInfo() {
  // 1 KiB to align the stages.
  return {S::kTokens, S::kColumns, S::kThreads,
          static_cast<int>(sizeof(LargeExpertsSharedStorage<S>)) + 1024,
          kStageBytes<LargeMStage, S>};
}

#define VK_WNA16_LARGE_EXPERTS_INFO(tokens) ExpertsInfo<LargeExpertsShape<tokens>>(),
constexpr LargeExpertsShapeInfo kExpertsShapes[] = {
    VK_WNA16_LARGE_EXPERTS_SHAPES(VK_WNA16_LARGE_EXPERTS_INFO)};
#undef VK_WNA16_LARGE_EXPERTS_INFO
constexpr int kColumns = kExpertsShapes[0].columns;
// Tiles of so many places are Marlin's, of which two blocks share a multiprocessor.
constexpr int kMarlinPlaces = 16;

}  // namespace

int64_t ExpertTiles(int rows, int count, int block) {
  return std::max<int64_t>(CeilDiv(rows, block), std::min(rows, count));
}

bool LargeExpertsServe(int64_t m_tiles, int block, int n, WeightType type, int group,
                       bool per_channel, const DeviceLimits& device) {
  if (block <= kMarlinPlaces || !ScalesServe(type, group, per_channel)) return false;
  return 4 * m_tiles * CeilDiv(n, kColumns) >= int64_t{3} * device.sms;
}

LargeExpertsPlan MakeLargeExpertsPlan(int block, int n, WeightType type,
                                      const DeviceLimits& device) {
  LargeExpertsPlan plan{};
  while (kExpertsShapes[plan.shape].tokens < block) ++plan.shape;
  const LargeExpertsShapeInfo& info = kExpertsShapes[plan.shape];
  const int stage_bytes = info.stage_bytes[static_cast<int>(type)];
  plan.stages = std::min((device.shared_bytes - info.rest_bytes) / stage_bytes, kLargeMMaxStages);
  plan.shared_bytes = plan.stages * stage_bytes + info.rest_bytes;
  plan.blocks = device.sms;
  plan.threads = info.threads;
  plan.columns = info.columns;
  plan.n_tiles = static_cast<int>(CeilDiv(n, info.columns));
  return plan;
}

}  // namespace vk::cuda::wna16
