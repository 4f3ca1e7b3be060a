#include "cuda/common/launch.h"
#include "cuda/mla/kernel.cuh"
#include "cuda/mla/launch.h"
#include "cuda/mla/merge.cuh"

namespace vk::cuda::mla {

void RunSparse(const char* op, const Problem& p, bool quantized, cudaStream_t stream) {
  const int64_t rows = int64_t{p.batch} * p.queries;
  const int64_t blocks = CeilDiv(p.heads, kRows) * rows * p.splits;
  using T = BFloat16;
  const auto launch = [&](auto kernel, int threads) {
    LaunchKernel(op, kernel,
                 {dim3(GridX(op, blocks)), dim3(static_cast<unsigned>(threads)),
                  sm90::kSharedBytes<SharedStorage<T>>, stream, /*pdl=*/true},
                 p, CUtensorMap{});
  };
  if (quantized) {
    launch(&AttentionKernel<T, DequantizeProducer, SparseWorks>, kThreads<DequantizeProducer>);
  } else {
    launch(&AttentionKernel<T, CopyProducer, SparseWorks>, kThreads<CopyProducer>);
  }
  if (p.splits > 1) RunMerge<T, SparseWorks>(op, p, rows * p.heads, 1, stream);
}

}  // namespace vk::cuda::mla
