// Host side of the grouped GEMM: tensor maps, the choice of the tile, the launch.
#include "cuda/moe_gemm/grouped.h"

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/sm90/device.h"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::moe_gemm {
namespace {

// By the tokens that an expert has on average, the host knows no more: a tile that holds most
// experts' tokens, so that their weights are read once; of more tokens two or more tiles, small
// ones while the rest of an expert's last tile would be a large part of its work (measured on
// Hopper).
int32_t ChooseTile(const Grouped& g) {
  const int64_t mean = CeilDiv(g.rows, g.experts);
  int32_t tokens = mean <= 640 ? 128 : 256;
  for (const int32_t one : {256, 128, 64, 32, 16}) {
    if (4 * mean <= 3 * one) tokens = one;
  }
  return tokens;
}

Launch& LaunchOf(int32_t tokens) {
  switch (tokens) {
    case 16:
      return LaunchTokens16;
    case 32:
      return LaunchTokens32;
    case 64:
      return LaunchTokens64;
    case 128:
      return LaunchTokens128;
    default:
      return LaunchTokens256;
  }
}

}  // namespace

void RunGrouped(const char* op, const GroupedCall& call, cudaStream_t stream) {
  const Grouped& g = call.grouped;
  const Device& device = sm90::CurrentHopper(op);
  const int32_t tile = ChooseTile(g);
  const int64_t most_tiles = std::min<int64_t>(g.rows, g.rows / tile + g.experts);
  const int64_t columns = CeilDiv(g.n, kWeightRows);
  VK_CHECK(most_tiles * columns <= INT32_MAX / 2, "%s: %lld tiles of work, want less than 2^30", op,
           static_cast<long long>(most_tiles * columns));
  const int64_t blocks = std::min<int64_t>(most_tiles * columns, device.multiprocessors);

  using Size = uint64_t;
  const CUtensorMap weights = sm90::EncodeTensorMap<3>(
      op, call.weights, CU_TENSOR_MAP_DATA_TYPE_UINT8, {Size(g.k), Size(g.n), Size(g.experts)},
      {call.weight_stride, call.expert_stride}, {kDepth, kWeightRows, 1});
  const CUtensorMap tokens = sm90::EncodeTensorMap<3>(
      op, call.tokens, CU_TENSOR_MAP_DATA_TYPE_UINT8, {Size(g.k), Size(g.rows), 1},
      {call.token_stride, 0}, {kDepth, static_cast<uint32_t>(BoxTokens(tile)), 1});
  LaunchOf(tile)(op, g, weights, tokens, call.bfloat16, static_cast<int32_t>(blocks), stream);
}

}  // namespace vk::cuda::moe_gemm
