// Where the scales of groups of columns are written.
#ifndef VLLM_KERNELS_CUDA_COMMON_GROUP_SCALES_H_
#define VLLM_KERNELS_CUDA_COMMON_GROUP_SCALES_H_

#include "core/check.h"

namespace vk::cuda {

struct ScaleStrides {
  int64_t row, group;  // in elements
};

// `scales` is [rows, groups] of any strides; `transposed` takes [groups, rows] too.
inline ScaleStrides GroupScaleStrides(const char* op, const char* name, const vk_tensor& scales,
                                      int64_t rows, int64_t groups, bool transposed) {
  const Arg arg(op, name, &scales);
  arg.Dims(2);
  // Where both readings of a square tensor fit, its strides tell which is meant.
  if (transposed && arg.size(0) == groups && arg.size(1) == rows &&
      (arg.stride(1) == 1 || groups != rows)) {
    return {arg.stride(1), arg.stride(0)};
  }
  VK_CHECK(arg.size(0) == rows && arg.size(1) == groups, "%s: %s has shape %s, want [%lld, %lld]%s",
           op, name, ShapeString(scales).c_str(), static_cast<long long>(rows),
           static_cast<long long>(groups), transposed ? " or its transpose" : "");
  return {arg.stride(0), arg.stride(1)};
}

}  // namespace vk::cuda
#endif  // VLLM_KERNELS_CUDA_COMMON_GROUP_SCALES_H_
