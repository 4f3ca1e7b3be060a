#include "cuda/common/launch.h"
#include "cuda/mla/kernel.cuh"
#include "cuda/mla/launch.h"
#include "cuda/mla/merge.cuh"

namespace vk::cuda::mla {

void RunSparse(const char* op, const Problem& p, bool quantized, cudaStream_t stream) {
  const int64_t rows = int64_t{p.batch} * p.queries;
  const int64_t blocks = CeilDiv(p.heads, kRows) * rows * p.splits;
  using T = BFloat16;
  LaunchKernel(op,
               quantized ? &AttentionKernel<T, DequantizeProducer, SparseWorks>
                         : &AttentionKernel<T, CopyProducer, SparseWorks>,
               {dim3(GridX(op, blocks)), dim3(kThreads), sm90::kSharedBytes<SharedStorage<T>>,
                stream, /*pdl=*/true},
               p, CUtensorMap{});
  if (p.splits > 1) RunMerge<T, SparseWorks>(op, p, rows * p.heads, 1, stream);
}

}  // namespace vk::cuda::mla
