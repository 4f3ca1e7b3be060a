// Host side of the Hopper prefill kernel: tensor maps, the choice of the instance, the launch.
#include <cuda.h>

#include <algorithm>
#include <numeric>

#include "cuda/attention/hopper.h"
#include "cuda/attention/split.h"
#include "cuda/attention/tile_map.cuh"
#include "cuda/common/dtype.cuh"
#include "cuda/common/launch.h"
#include "cuda/sm90/tensor_map.h"

namespace vk::cuda::attention {
namespace {

// A tensor of 16-bit elements.
template <int kDims>
CUtensorMap EncodeMap(const char* op, const void* data, int32_t dtype,
                      const uint64_t (&sizes)[kDims], const int64_t (&strides)[kDims - 1],
                      const uint32_t (&box)[kDims]) {
  return sm90::EncodeTensorMap<kDims>(op, data, sm90::Float16MapType(dtype == VK_BF16), sizes,
                                      strides, box);
}

int32_t PaddedHead(const Problem& problem) {
  const int32_t head = std::max(problem.head_size, problem.value_head_size);
  return head <= 64 ? 64 : head <= 128 ? 128 : head <= 192 ? 192 : 256;
}

template <class T>
void LaunchBySize(const char* op, int32_t head, const Problem& problem, const HopperPlan& plan,
                  int32_t blocks, const CUtensorMap (&maps)[3], cudaStream_t stream) {
  if (head == 64) return LaunchHopper<T, 64>(op, problem, plan, blocks, maps, stream);
  if (head == 128) return LaunchHopper<T, 128>(op, problem, plan, blocks, maps, stream);
  if (head == 192) return LaunchHopper<T, 192>(op, problem, plan, blocks, maps, stream);
  return LaunchHopper<T, 256>(op, problem, plan, blocks, maps, stream);
}

}  // namespace

bool HopperServes(const Problem& problem) {
  // Boxes of whole eight-row groups of the swizzle.
  const bool boxes = problem.block_table == nullptr || problem.block_size % 8 == 0;
  // Tensor maps know no expanded dimensions.
  const auto strided = [&](const CacheStrides& strides) {
    return (problem.kv_heads == 1 || strides.head > 0) && strides.slot > 0 &&
           (problem.blocks <= 1 || strides.block > 0);
  };
  // The kernel takes the maximum of scores for that of logits: their scale is to be positive.
  return problem.query_vector && problem.kv_vector && problem.out_vector && boxes &&
         strided(problem.key_strides) && strided(problem.value_strides) &&
         (problem.heads == 1 || problem.query_head_stride > 0) &&
         (problem.tokens == 1 || problem.query_token_stride > 0) &&
         problem.group <= HopperRows(PaddedHead(problem)) && problem.scale > 0.0f;
}

void RunHopper(const char* op, const Problem& problem, const HopperCall& call) {
  const int32_t head = PaddedHead(problem);
  const int32_t keys = HopperKeys(head);
  HopperPlan plan{};
  const int32_t tile_tokens = HopperRows(head) / problem.group;
  plan.tile_rows = tile_tokens * problem.group;
  plan.group = FastDiv(static_cast<uint32_t>(problem.group));
  plan.tiles = static_cast<int32_t>(
      TileCount(problem.tokens, problem.requests, problem.group, plan.tile_rows));
  plan.box_keys = call.keys > 0 ? keys : std::gcd(problem.block_size, keys);
  const int64_t head_bytes =
      std::max<int64_t>(1, call.max_seq_len) * 2 * (problem.head_size + problem.value_head_size);
  plan.section_heads = SectionHeads(problem.kv_heads, head_bytes, call.l2_bytes);
  plan.counter = static_cast<int32_t*>(call.workspace);
  CheckCuda(op, "clearing the workspace",
            cudaMemsetAsync(call.workspace, 0, kHopperWorkspace, call.stream));

  using Size = uint64_t;
  const auto cache = [&](const void* data, int32_t size, const CacheStrides& strides) {
    const Size slots = call.keys > 0 ? call.keys : problem.block_size;
    return EncodeMap<4>(op, data, call.dtype,
                        {Size(size), Size(problem.kv_heads), slots, Size(problem.blocks)},
                        {strides.head, strides.slot, strides.block},
                        {64, 1, static_cast<uint32_t>(plan.box_keys), 1});
  };
  const CUtensorMap maps[3] = {
      EncodeMap<3>(op, problem.query, call.dtype,
                   {Size(problem.head_size), Size(problem.heads), Size(problem.tokens)},
                   {2 * problem.query_head_stride, 2 * problem.query_token_stride},
                   {64, static_cast<uint32_t>(problem.group), static_cast<uint32_t>(tile_tokens)}),
      cache(problem.key, problem.head_size, problem.key_strides),
      cache(problem.value, problem.value_head_size, problem.value_strides)};
  const int64_t work = int64_t{plan.tiles} * problem.kv_heads;
  VK_CHECK(work <= INT32_MAX / 2, "%s: %lld tiles of work, want less than 2^30", op,
           static_cast<long long>(work));
  const int32_t blocks = static_cast<int32_t>(std::min<int64_t>(work, call.multiprocessors));
  if (call.dtype == VK_BF16) {
    LaunchBySize<BFloat16>(op, head, problem, plan, blocks, maps, call.stream);
  } else {
    LaunchBySize<Half>(op, head, problem, plan, blocks, maps, call.stream);
  }
}

}  // namespace vk::cuda::attention
