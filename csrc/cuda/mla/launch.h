// Launches of multi-head latent attention, and how its keys are divided.
#ifndef VLLM_KERNELS_CUDA_MLA_LAUNCH_H_
#define VLLM_KERNELS_CUDA_MLA_LAUNCH_H_

#include <cuda_runtime.h>

#include "cuda/mla/problem.h"

namespace vk::cuda::mla {

struct Plan {
  int32_t splits, pairs;  // parts of a row's keys, and pairs of stages in each
};

// Of sparse attention. `rows`: works without splits; topk: keys of each.
Plan ChoosePlan(int64_t rows, int64_t topk, int32_t multiprocessors);

void RunSparse(const char* op, const Problem& problem, bool quantized, int32_t multiprocessors,
               cudaStream_t stream);

// Blocks that work on the same part of the keys, and parts, of a GPU's multiprocessors.
int32_t DenseTiles(int64_t queries, int64_t heads);
int32_t DenseParts(int64_t queries, int64_t heads, int32_t multiprocessors);

// Writes parts + 1 cuts.
void RunSchedule(const char* op, const int32_t* lengths, int32_t batch, int32_t most_keys,
                 int32_t parts, Cut* schedule, cudaStream_t stream);
void RunDense(const char* op, const Problem& problem, int32_t dtype, cudaStream_t stream);

}  // namespace vk::cuda::mla
#endif  // VLLM_KERNELS_CUDA_MLA_LAUNCH_H_
