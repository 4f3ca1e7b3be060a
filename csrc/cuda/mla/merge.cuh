// Launches what puts the pieces of a row together.
#ifndef VLLM_KERNELS_CUDA_MLA_MERGE_CUH_
#define VLLM_KERNELS_CUDA_MLA_MERGE_CUH_

#include "cuda/common/launch.h"
#include "cuda/mla/kernel.cuh"

namespace vk::cuda::mla {

// Blocks of parts of so many rows do not wait for places on the GPU.
constexpr int64_t kFewRows = 256;
// As many of a whole row's results as a warp reads at once.
constexpr int64_t kFewResults = MergeStorage<MergeBy::kWarp>::kAhead;

// `results`: about how many partial results a row has.
template <class T, class Works>
void RunMerge(const char* op, const Problem& p, int64_t rows, int32_t entries, int64_t results,
              cudaStream_t stream) {
  const auto launch = [&](auto kernel, size_t shared_bytes, int64_t blocks, unsigned columns) {
    LaunchConfig config{dim3(GridX(op, blocks), static_cast<unsigned>(entries), columns),
                        dim3(kMergeThreads), static_cast<int64_t>(shared_bytes), stream};
    config.pdl = true;
    config.most_shared = true;
    LaunchKernel(op, kernel, config, p);
  };
  if (rows * entries <= kFewRows) {
    launch(&MergeKernel<T, Works, MergeBy::kResults>, sizeof(MergeStorage<MergeBy::kResults>), rows,
           kMergeWarps);
  } else if (results > kFewResults) {
    launch(&MergeKernel<T, Works, MergeBy::kColumns>, sizeof(MergeStorage<MergeBy::kColumns>), rows,
           1);
  } else {
    launch(&MergeKernel<T, Works, MergeBy::kWarp>, sizeof(MergeStorage<MergeBy::kWarp>),
           CeilDiv(rows, kMergeWarps), 1);
  }
}

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_MERGE_CUH_
