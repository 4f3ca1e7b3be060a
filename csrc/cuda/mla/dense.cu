#include "cuda/common/launch.h"
#include "cuda/mla/cuts.cuh"
#include "cuda/mla/kernel.cuh"
#include "cuda/mla/launch.h"

namespace vk::cuda::mla {
namespace {

template <class T>
void RunType(const char* op, const Problem& p, int32_t parts, cudaStream_t stream) {
  const unsigned tiles = static_cast<unsigned>(DenseTiles(p.queries, p.heads));
  LaunchKernel(op, &AttentionKernel<T, CopyProducer, DenseWorks>,
               {dim3(tiles, static_cast<unsigned>(parts)), dim3(kThreads),
                sm90::kSharedBytes<SharedStorage>, stream},
               p);
  if (parts == 1) return;
  const unsigned blocks = static_cast<unsigned>(CeilDiv(int64_t{p.queries} * p.heads, 4));
  LaunchKernel(op, &MergeKernel<T, DenseWorks>,
               {dim3(blocks, static_cast<unsigned>(parts)), dim3(128), 0, stream}, p);
}

}  // namespace

void RunSchedule(const char* op, const int32_t* lengths, int32_t batch, int32_t most_keys,
                 int32_t parts, Cut* schedule, cudaStream_t stream) {
  LaunchKernel(op, &CutKernel, {dim3(1), dim3(kCutThreads), kCutSharedBytes, stream}, lengths,
               batch, most_keys, parts, schedule);
}

void RunDense(const char* op, const Problem& p, int32_t parts, bool bfloat16, cudaStream_t stream) {
  if (bfloat16) {
    RunType<BFloat16>(op, p, parts, stream);
  } else {
    RunType<Half>(op, p, parts, stream);
  }
}

}  // namespace vk::cuda::mla
