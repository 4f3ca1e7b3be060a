#include <algorithm>

#include "cuda/common/launch.h"
#include "cuda/mla/kernel.cuh"
#include "cuda/mla/launch.h"
#include "cuda/mla/merge.cuh"

namespace vk::cuda::mla {

void RunSparse(const char* op, const Problem& p, bool quantized, int32_t multiprocessors,
               cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(std::min(p.works, multiprocessors));
  using T = BFloat16;
  const auto launch = [&](auto kernel, int threads) {
    LaunchKernel(op, kernel,
                 {dim3(blocks), dim3(static_cast<unsigned>(threads)),
                  sm90::kSharedBytes<SharedStorage<T>>, stream, /*pdl=*/true},
                 p, CUtensorMap{});
  };
  if (quantized) {
    launch(&AttentionKernel<T, DequantizeProducer, SparseWorks>, kThreads<DequantizeProducer>);
  } else {
    launch(&AttentionKernel<T, CopyProducer, SparseWorks>, kThreads<CopyProducer>);
  }
  if (p.splits > 1) {
    RunMerge<T, SparseWorks>(op, p, int64_t{p.batch} * p.queries * p.heads, 1, p.splits, stream);
  }
}

}  // namespace vk::cuda::mla
