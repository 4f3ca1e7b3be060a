// Between the checks (quant.cc) and the kernels (*.cu). Strides count elements.
#ifndef VLLM_KERNELS_CUDA_QUANT_LAUNCH_H_
#define VLLM_KERNELS_CUDA_QUANT_LAUNCH_H_

#include "cuda/common/fast_div.h"
#include "cuda/common/launch.h"
#include "cuda/common/rows.h"

namespace vk::cuda::quant {

// What a kernel is told; passed by value.
struct Problem {
  const void* input;
  void* result;
  float* scales;
  const float* scale_ub;  // null: none
  int32_t* zero_points;   // null: none
  RowMap input_rows, result_rows, scale_rows;
  int64_t rows, width;
  FastDiv vectors;  // vectors of input elements that a row has
  uint32_t count;   // vectors of all rows
  // Of static scales: rows and columns of a group, and strides, 0 where there is one for all.
  int64_t group_rows, group_columns;
  int64_t scale_row_stride, scale_column_stride;
  // Of groups of columns.
  int32_t group_size, groups;
  int64_t scale_group_stride;
  int64_t padded_rows, result_padding;  // packed: rows of the scales, and of the result
  float eps, least, largest;
};

struct Launch {
  const char* op;
  int32_t dtype;         // vk_dtype of input
  int32_t result_dtype;  // vk_dtype of result
  bool aligned;          // all rows start at, and have, whole 16-byte vectors of input elements
  cudaStream_t stream;
};

enum class GroupScale { kFloat, kPowerOfTwo, kPacked };

void LaunchStatic(const Problem& problem, const Launch& launch);
void LaunchTensor(const Problem& problem, const Launch& launch);
void LaunchRows(const Problem& problem, const Launch& launch);
void LaunchGroups(GroupScale scale, const Problem& problem, const Launch& launch);
// Each kind in a file of its own (instances.cmake); the padding of packed scales is left.
template <GroupScale kScale>
void LaunchGroupsOf(const Problem& problem, const Launch& launch);

}  // namespace vk::cuda::quant
#endif  // VLLM_KERNELS_CUDA_QUANT_LAUNCH_H_
