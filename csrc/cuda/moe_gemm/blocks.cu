// Host side of the grouped GEMM with scales of blocks: tensor maps and the launch.
#include "cuda/moe_gemm/blocks.h"

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/sm90/device.h"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::moe_gemm {
namespace {

BlocksLaunch& LaunchOf(const BlocksPlan& plan) {
  if (plan.tokens == 16) return LaunchBlocks16x1;
  if (plan.tokens == 64) return plan.waves == 1 ? LaunchBlocks64x1 : LaunchBlocks64x2;
  return plan.waves == 1 ? LaunchBlocks128x1 : LaunchBlocks128x2;
}

}  // namespace

void RunBlocks(const char* op, const BlocksCall& call, const BlocksPlan& plan,
               cudaStream_t stream) {
  const Blocks& b = call.blocks;
  const Device& device = sm90::CurrentHopper(op);
  const bool labels = b.labels != nullptr;
  const int64_t tiles = CeilDiv(b.rows, plan.tokens) * (labels ? 1 : b.experts);
  const int64_t columns = CeilDiv(b.n, kWeightRows * plan.waves);
  VK_CHECK(tiles * columns <= INT32_MAX / 2, "%s: %lld tiles of work, want less than 2^30", op,
           Print(tiles * columns));
  const int64_t grid = std::min<int64_t>(tiles * columns, device.multiprocessors);

  using Size = uint64_t;
  const CUtensorMap weights = sm90::EncodeTensorMap<3>(
      op, call.weights, CU_TENSOR_MAP_DATA_TYPE_UINT8, {Size(b.k), Size(b.n), Size(b.experts)},
      {call.weight_row, call.weight_expert},
      {kDepth, static_cast<uint32_t>(kWeightRows * plan.waves), 1});
  const auto tokens = [&](int box) {
    return sm90::EncodeTensorMap<3>(op, call.tokens, CU_TENSOR_MAP_DATA_TYPE_UINT8,
                                    {Size(b.k), Size(b.rows), labels ? Size{1} : Size(b.experts)},
                                    {call.token_row, call.token_expert},
                                    {kDepth, static_cast<uint32_t>(box), 1});
  };
  LaunchOf(plan)(op, b, weights, tokens(BoxTokens(plan.tokens)), tokens(kFewTokens),
                 static_cast<int32_t>(grid), stream);
}

}  // namespace vk::cuda::moe_gemm
