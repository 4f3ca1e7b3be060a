// Launches of the indexer's logits.
#ifndef VLLM_KERNELS_CUDA_MQA_LOGITS_LAUNCH_H_
#define VLLM_KERNELS_CUDA_MQA_LOGITS_LAUNCH_H_

#include <cuda_runtime.h>

#include "cuda/mqa_logits/problem.h"

namespace vk::cuda::mqa_logits {

// Float8 matrices, strides in bytes.
struct Queries {
  const void* data;
  int64_t row_stride, head_stride;
  int32_t heads;
};
struct Keys {
  const void* data;
  int64_t stride;
};

void RunContiguous(const char* op, const Contiguous& problem, const Queries& queries,
                   const Keys& keys, int32_t blocks, cudaStream_t stream);
void RunPaged(const char* op, const Paged& problem, const Queries& queries, int32_t parts,
              int32_t multiprocessors, cudaStream_t stream);
void RunSchedule(const char* op, const ContextLengths& lengths, int32_t batch, int32_t parts,
                 Cut* schedule, cudaStream_t stream);

}  // namespace vk::cuda::mqa_logits
#endif  // VLLM_KERNELS_CUDA_MQA_LOGITS_LAUNCH_H_
