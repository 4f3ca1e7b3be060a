// What the checks (sampling.cc) hand to the launchers (*.cu).
#ifndef VLLM_KERNELS_CUDA_SAMPLING_LAUNCH_H_
#define VLLM_KERNELS_CUDA_SAMPLING_LAUNCH_H_

#include "cuda/common/launch.h"

namespace vk::cuda::sampling {

struct Penalties {
  void* logits;
  const uint8_t *prompt, *output;  // bool
  const void* penalties;
  int64_t rows, width;
  int64_t logits_stride, prompt_stride, output_stride;
};
void LaunchPenalties(const char* op, int32_t dtype, bool aligned, const Penalties& penalties,
                     cudaStream_t stream);

struct Select {
  const float* logits;
  int64_t rows, columns, row_stride, column_stride;
  const int32_t* starts;  // null: 0
  const int32_t* ends;
  int32_t next_n;  // 0: an end for each row; else row r's is ends[r / next_n] - next_n + ...
  int32_t* indices;
  int32_t k;
};
void LaunchSelect(const char* op, const Select& select, cudaStream_t stream);

struct Embedding {
  void* out;
  const void *tokens, *weight;
  int64_t count, width, stride;  // width and stride in bytes
  int64_t start, end, added_start, added_end;
  int64_t added_row;  // where the added tokens begin
};
void LaunchEmbedding(const char* op, bool wide_tokens, int64_t unit, const Embedding& embedding,
                     cudaStream_t stream);

}  // namespace vk::cuda::sampling
#endif  // VLLM_KERNELS_CUDA_SAMPLING_LAUNCH_H_
