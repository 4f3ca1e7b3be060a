// Host side of the grouped product: tensor maps, the choice of the tile, the launch.
#include "cuda/moe_gemm/grouped.h"

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/common/tensor_map.h"

namespace vk::cuda::moe_gemm {
namespace {

struct Choice {
  int32_t tokens, cluster;
};

// By the tokens that an expert has on average: the host knows no more.
Choice ChooseTile(const Grouped& g) {
  const int64_t mean = CeilDiv(g.rows, g.experts);
  int32_t tokens = mean <= 8 ? 16 : mean <= 24 ? 32 : mean <= 96 ? 64 : mean <= 384 ? 128 : 256;
  tokens = static_cast<int32_t>(Tuned("VK_MOE_TOKENS", tokens));
  int32_t cluster = 1;
  cluster = static_cast<int32_t>(Tuned("VK_MOE_CLUSTER", cluster));
  return {tokens, cluster};
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
  const Device& device = CurrentDevice(op);
  if (device.capability != 90) {
    Fail(VK_UNSUPPORTED, "%s: this library has kernels for %s, but the GPU is %d.%d", op,
         VK_CUDA_ARCHS, device.capability / 10, device.capability % 10);
  }
  const Choice tile = ChooseTile(g);
  const int64_t most_tiles = std::min<int64_t>(g.rows, g.rows / tile.tokens + g.experts);
  const int64_t columns = CeilDiv(g.n, kWeightRows * tile.cluster);
  VK_CHECK(most_tiles * columns <= INT32_MAX / 2, "%s: %lld tiles of work, want less than 2^30", op,
           static_cast<long long>(most_tiles * columns));
  const int64_t clusters =
      std::min<int64_t>(most_tiles * columns, device.multiprocessors / tile.cluster);

  using Size = uint64_t;
  const CUtensorMap weights = EncodeTensorMap<3>(
      op, call.weights, CU_TENSOR_MAP_DATA_TYPE_UINT8, {Size(g.k), Size(g.n), Size(g.experts)},
      {call.weight_stride, call.expert_stride}, {kDepth, kWeightRows, 1});
  const CUtensorMap tokens = EncodeTensorMap<3>(
      op, call.tokens, CU_TENSOR_MAP_DATA_TYPE_UINT8, {Size(g.k), Size(g.rows), 1},
      {call.token_stride, 0}, {kDepth, static_cast<uint32_t>(tile.tokens / tile.cluster), 1});
  LaunchOf(tile.tokens)(g, weights, tokens, call.bfloat16, tile.cluster,
                        static_cast<int32_t>(clusters) * tile.cluster, stream);
  CheckLaunch(op);
}

}  // namespace vk::cuda::moe_gemm
