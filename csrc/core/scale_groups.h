// Scales of a matrix by groups of rows and columns.
#ifndef VLLM_KERNELS_CORE_SCALE_GROUPS_H_
#define VLLM_KERNELS_CORE_SCALE_GROUPS_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/check.h"

namespace vk {

// Element (i, j) takes scale i / rows * row_stride + j / columns * column_stride.
struct ScaleGroups {
  int64_t rows = 1, columns = 1;
  int64_t row_stride = 0, column_stride = 0;
};

// What the shape of `scale`, and {rows, columns} of a group where `group_shape` is given, say of an
// input of [rows, width]: one element; or [rows / group rows, width / group columns]; or 1-D with
// one of these two 1, which needs `group_shape`. -1 stands for all rows or columns.
inline ScaleGroups FindScaleGroups(const char* op, const vk_tensor* scale,
                                   const int64_t* group_shape, int64_t rows, int64_t width) {
  const Arg arg(op, "scale", scale);
  arg.Dtype({VK_F32});
  if (NumElements(*scale) == 1) return {};
  const std::string shape = ShapeString(*scale);
  VK_CHECK(scale->ndim == 1 || scale->ndim == 2,
           "%s: scale has shape %s, want one element, 1 or 2 dimensions", op, shape.c_str());
  VK_CHECK(scale->ndim == 2 || group_shape != nullptr,
           "%s: scale has shape %s without a group_shape, want (-1, 1) for a scale a column or "
           "(1, -1) for a scale a row",
           op, shape.c_str());
  const int64_t sizes[2] = {rows, width};
  int64_t group[2], counts[2];
  for (int32_t dim = 0; dim < 2; ++dim) {
    const bool all = group_shape != nullptr && group_shape[dim] == -1;
    if (all) {
      group[dim] = std::max<int64_t>(sizes[dim], 1);
    } else if (group_shape != nullptr) {
      group[dim] = group_shape[dim];
    } else {
      group[dim] = scale->shape[dim] > 0 ? sizes[dim] / scale->shape[dim] : 0;
    }
    VK_CHECK(group[dim] > 0 && sizes[dim] % group[dim] == 0,
             "%s: groups of %lld %s do not divide input's %lld", op, Print(group[dim]),
             dim == 0 ? "rows" : "columns", Print(sizes[dim]));
    counts[dim] = all ? 1 : sizes[dim] / group[dim];
  }
  const bool fits = scale->ndim == 2 ? scale->shape[0] == counts[0] && scale->shape[1] == counts[1]
                                     : (counts[0] == 1 || counts[1] == 1) &&
                                           scale->shape[0] == counts[0] * counts[1];
  VK_CHECK(
      fits, "%s: scale has shape %s, want [%lld, %lld]%s for groups of %lld rows and %lld columns",
      op, shape.c_str(), Print(counts[0]), Print(counts[1]),
      scale->ndim == 1 ? ", one of them 1 and left out," : "", Print(group[0]), Print(group[1]));
  const int64_t last = arg.stride(-1);
  return {group[0], group[1], counts[0] == 1 ? 0 : (scale->ndim == 2 ? arg.stride(0) : last),
          counts[1] == 1 ? 0 : last};
}

}  // namespace vk
#endif  // VLLM_KERNELS_CORE_SCALE_GROUPS_H_
