#include "cuda/mqa_logits/paged.cuh"

#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/mqa_logits/cuts.cuh"
#include "cuda/mqa_logits/kernel.cuh"
#include "cuda/mqa_logits/maps.h"

namespace vk::cuda::mqa_logits {
namespace {

template <int kQueries, int kHeads>
void RunTile(const char* op, Paged p, const Queries& queries, int32_t parts,
             int32_t multiprocessors, cudaStream_t stream) {
  const int32_t query_tiles = static_cast<int32_t>(CeilDiv(p.queries, kQueries));
  p.splits =
      static_cast<int32_t>(std::max<int64_t>(1, multiprocessors / (int64_t{parts} * query_tiles)));
  const CUtensorMap pages = sm90::EncodeTensorMap<3>(
      op, p.cache, CU_TENSOR_MAP_DATA_TYPE_UINT8,
      {kDepth, static_cast<uint64_t>(p.slots), static_cast<uint64_t>(p.pages)},
      {kDepth, p.page_bytes}, {kDepth, static_cast<uint32_t>(p.slots), 1});
  LaunchKernel(op, &LogitsKernel<PagedWorks<kQueries>, kQueries, kHeads>,
               {dim3(GridX(op, int64_t{parts} * p.splits), static_cast<unsigned>(query_tiles)),
                dim3(kThreads), sm90::kSharedBytes<SharedStorage<kQueries, kHeads>>, stream},
               p, QueryMap(op, queries, p.rows, kQueries), pages);
}

template <int kHeads>
void RunHeads(const char* op, const Paged& p, const Queries& queries, int32_t parts,
              int32_t multiprocessors, cudaStream_t stream) {
  if (p.queries == 1) return RunTile<1, kHeads>(op, p, queries, parts, multiprocessors, stream);
  if (p.queries == 2) return RunTile<2, kHeads>(op, p, queries, parts, multiprocessors, stream);
  RunTile<4, kHeads>(op, p, queries, parts, multiprocessors, stream);
}

}  // namespace

void RunPaged(const char* op, const Paged& p, const Queries& queries, int32_t parts,
              int32_t multiprocessors, cudaStream_t stream) {
  if (queries.heads == 32) return RunHeads<32>(op, p, queries, parts, multiprocessors, stream);
  RunHeads<64>(op, p, queries, parts, multiprocessors, stream);
}

void RunSchedule(const char* op, const ContextLengths& lengths, int32_t batch, int32_t parts,
                 Cut* schedule, cudaStream_t stream) {
  LaunchKernel(op, &CutKernel<TilesOf>, {dim3(1), dim3(kCutThreads), kCutSharedBytes, stream},
               TilesOf{lengths}, batch, parts, schedule);
}

}  // namespace vk::cuda::mqa_logits
