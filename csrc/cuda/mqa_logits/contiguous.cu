#include "cuda/mqa_logits/contiguous.cuh"

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/mqa_logits/kernel.cuh"
#include "cuda/mqa_logits/maps.h"

namespace vk::cuda::mqa_logits {
namespace {

// Tiles of a work: enough to hide its beginning, few enough that blocks end together.
constexpr int64_t kLeastChunk = 8, kMostChunk = 64, kWorksOfBlock = 8;

template <int kHeads>
void RunHeads(const char* op, Contiguous p, const Queries& queries, const Keys& keys,
              int32_t blocks, cudaStream_t stream) {
  constexpr int kQueries = kMostColumns / kHeads;
  const int64_t tiles = CeilDiv(p.keys, kKeys), query_tiles = CeilDiv(p.rows, kQueries);
  const int64_t wanted = tiles * query_tiles / (kWorksOfBlock * blocks);
  p.chunk = static_cast<int32_t>(std::clamp(wanted, kLeastChunk, kMostChunk));
  const int64_t works = query_tiles * CeilDiv(tiles, p.chunk);
  const unsigned grid = static_cast<unsigned>(std::min<int64_t>(works, blocks));
  const CUtensorMap key_map = sm90::EncodeTensorMap<2>(op, keys.data, CU_TENSOR_MAP_DATA_TYPE_UINT8,
                                                       {kDepth, static_cast<uint64_t>(p.keys)},
                                                       {keys.stride}, {kDepth, kKeys});
  LaunchKernel(
      op, &LogitsKernel<ContiguousWorks<kQueries>, kQueries, kHeads>,
      {dim3(grid), dim3(kThreads), sm90::kSharedBytes<SharedStorage<kQueries, kHeads>>, stream}, p,
      QueryMap(op, queries, p.rows, kQueries), key_map);
}

}  // namespace

void RunContiguous(const char* op, const Contiguous& p, const Queries& queries, const Keys& keys,
                   int32_t blocks, cudaStream_t stream) {
  if (queries.heads == 32) return RunHeads<32>(op, p, queries, keys, blocks, stream);
  RunHeads<64>(op, p, queries, keys, blocks, stream);
}

}  // namespace vk::cuda::mqa_logits
