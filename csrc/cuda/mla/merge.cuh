// Launches what puts the pieces of a row together.
#ifndef VLLM_KERNELS_CUDA_MLA_MERGE_CUH_
#define VLLM_KERNELS_CUDA_MLA_MERGE_CUH_

#include "cuda/common/launch.h"
#include "cuda/mla/kernel.cuh"

namespace vk::cuda::mla {

// Blocks of parts of so many rows do not wait for places on the GPU.
constexpr int64_t kFewRows = 256;

template <class T, class Works>
void RunMerge(const char* op, const Problem& p, int64_t rows, int32_t entries,
              cudaStream_t stream) {
  const auto launch = [&](auto kernel, unsigned team) {
    const unsigned blocks = GridX(op, CeilDiv(rows * team, kMergeWarps));
    LaunchConfig config{dim3(blocks, static_cast<unsigned>(entries), team), dim3(kMergeThreads),
                        sizeof(MergeStorage<kMergeWarps>), stream};
    config.pdl = true;
    LaunchKernel(op, kernel, config, p);
  };
  if (rows * entries <= kFewRows) {
    launch(&MergeKernel<T, Works, kMergeWarps>, kMergeWarps);
  } else {
    launch(&MergeKernel<T, Works, 1>, 1);
  }
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_MERGE_CUH_
