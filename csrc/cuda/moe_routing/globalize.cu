// Ids of experts before and beside their sort: local numbers made global ones, and which entries
// are sorted.
#include <algorithm>

#include "cuda/common/pdl.cuh"
#include "cuda/moe_routing/sort.cuh"

namespace vk::cuda::moe_routing {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1024;

template <class Body>
__device__ __forceinline__ void ForEntries(int64_t entries, const Body& body) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t entry = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; entry < entries;
       entry += step) {
    body(entry);
  }
}

__global__ void __launch_bounds__(kThreads)
    GlobalizeKernel(const __grid_constant__ Globalize globalize) {
  PdlPrologue();
  const int64_t last = globalize.ranks - 1;
  const int64_t received = globalize.wide_received
                               ? static_cast<const int64_t*>(globalize.received)[last]
                               : static_cast<const int32_t*>(globalize.received)[last];
  ForEntries(globalize.entries, [&](int64_t entry) {
    const int64_t id = globalize.ids[entry];
    const bool used = id >= 0 && id < globalize.experts - globalize.first_expert &&
                      entry / globalize.topk < received;
    globalize.ids[entry] = used ? id + globalize.first_expert : -1;
  });
}

__global__ void __launch_bounds__(kThreads) MarkKernel(const __grid_constant__ Sort sort) {
  PdlPrologue();
  ForEntries(sort.entries, [&](int64_t entry) {
    const int64_t id = sort.wide_ids ? static_cast<const int64_t*>(sort.ids)[entry]
                                     : static_cast<const int32_t*>(sort.ids)[entry];
    sort.scatter[entry] = BucketOfExpert<Align>(sort, id) < 0 ? -1 : static_cast<int32_t>(entry);
  });
}

unsigned Blocks(int64_t entries) {
  return static_cast<unsigned>(std::min(CeilDiv(entries, kThreads), kMostBlocks));
}

}  // namespace

void LaunchGlobalize(const char* op, const Globalize& globalize, cudaStream_t stream) {
  if (globalize.entries == 0) return;
  LaunchPdl(op, GlobalizeKernel, Blocks(globalize.entries), kThreads, 0, stream, globalize);
}

void LaunchMark(const char* op, const Sort& sort, cudaStream_t stream) {
  if (sort.entries == 0) return;
  LaunchPdl(op, MarkKernel, Blocks(sort.entries), kThreads, 0, stream, sort);
}

}  // namespace vk::cuda::moe_routing
