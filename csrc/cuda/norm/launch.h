// Between the checks (norm.cc) and the kernels (norm_*.cu): one function a kind of output.
#ifndef VLLM_KERNELS_CUDA_NORM_LAUNCH_H_
#define VLLM_KERNELS_CUDA_NORM_LAUNCH_H_

#include "cuda/common/launch.h"
#include "cuda/common/rows.h"

namespace vk::cuda::norm {

// Everything a kernel is told; passed by value. Strides count elements.
struct Problem {
  const void* input;
  void* residual;  // null: none
  void* result;    // may be input
  const void* weight;
  float* scales;  // written by the dynamic kinds
  const float* scale;
  const float* scale_ub;  // null: none
  RowMap input_rows, residual_rows, result_rows;
  int64_t rows, width;
  int64_t rows_per_weight, weight_stride;  // row r takes weight row r / rows_per_weight
  int64_t scale_row_stride, scale_group_stride;
  float epsilon, inverse_width;
  int32_t group_size;
};

// How it is to be run: decided by the checks.
struct Launch {
  const char* op;
  int32_t dtype;         // vk_dtype of input
  int32_t result_dtype;  // vk_dtype of result
  bool aligned;          // all rows start at, and have, whole 16-byte vectors of input elements
  cudaStream_t stream;
};

void LaunchPlain(const Problem& problem, const Launch& launch);
void LaunchStatic(const Problem& problem, const Launch& launch);
void LaunchPerToken(const Problem& problem, const Launch& launch);
void LaunchPerGroup(const Problem& problem, const Launch& launch);

}  // namespace vk::cuda::norm
#endif  // VLLM_KERNELS_CUDA_NORM_LAUNCH_H_
