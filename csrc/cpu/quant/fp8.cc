#include <algorithm>
#include <vector>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/quant/quant.h"
#include "cpu/scratch.h"

namespace {

using vk::Arg;
using vk::Print;

constexpr float kLargest = 448.0f;
constexpr float kLeastScale = 1.0f / (448.0f * 512.0f);

Arg CheckTensors(const char* op, const vk_tensor* result, const vk_tensor* input) {
  const Arg in(op, "input", input);
  in.Dtype({VK_F32, VK_BF16, VK_F16}).MinDims(1).LastDimContiguous();
  Arg(op, "result", result).Dtype({VK_F8E4M3}).SameShape(in).LastDimContiguous();
  return in;
}

// Which element takes which scale: scale (i / rows, j / columns) is data[row * row_stride + ...].
struct Groups {
  const float* data;
  int64_t rows, columns;  // of a group
  int64_t row_stride, column_stride;

  bool by_column() const { return column_stride != 0; }

  // The factors of `width` columns of a row; one of them without scales by column.
  void Factors(int64_t row, int64_t width, float* factors) const {
    const float* scales = data + row / rows * row_stride;
    for (int64_t j = 0; j < (by_column() ? width : 1); ++j) {
      const float scale = scales[j / columns * column_stride];
      factors[j] = scale == 0.0f ? 0.0f : 1.0f / scale;
    }
  }
};

Groups GroupsOf(const char* op, const vk_tensor* scale, const int64_t* group_shape, int64_t rows,
                int64_t width) {
  const Arg arg(op, "scale", scale);
  arg.Dtype({VK_F32});
  const float* data = static_cast<const float*>(scale->data);
  if (vk::NumElements(*scale) == 1) {
    return {data, std::max<int64_t>(rows, 1), std::max<int64_t>(width, 1), 0, 0};
  }
  const std::string shape = vk::ShapeString(*scale);
  VK_CHECK(scale->ndim == 1 || scale->ndim == 2,
           "%s: scale has shape %s, want one element, 1 or 2 dimensions", op, shape.c_str());
  VK_CHECK(scale->ndim == 2 || group_shape != nullptr,
           "%s: scale has shape %s without a group_shape, want (-1, 1) for a scale a column or "
           "(1, -1) for a scale a row",
           op, shape.c_str());
  const int64_t sizes[2] = {rows, width};
  int64_t group[2], counts[2];
  for (int32_t dim = 0; dim < 2; ++dim) {
    if (group_shape != nullptr) {
      group[dim] = group_shape[dim] == -1 ? sizes[dim] : group_shape[dim];
    } else {
      group[dim] = scale->shape[dim] > 0 ? sizes[dim] / scale->shape[dim] : 0;
    }
    VK_CHECK(group[dim] > 0 && sizes[dim] % group[dim] == 0,
             "%s: groups of %lld %s do not divide input's %lld", op, Print(group[dim]),
             dim == 0 ? "rows" : "columns", Print(sizes[dim]));
    counts[dim] = sizes[dim] / group[dim];
  }
  const bool fits = scale->ndim == 2 ? scale->shape[0] == counts[0] && scale->shape[1] == counts[1]
                                     : (counts[0] == 1 || counts[1] == 1) &&
                                           scale->shape[0] == counts[0] * counts[1];
  VK_CHECK(
      fits, "%s: scale has shape %s, want [%lld, %lld]%s for groups of %lld rows and %lld columns",
      op, shape.c_str(), Print(counts[0]), Print(counts[1]),
      scale->ndim == 1 ? ", one of them 1 and left out," : "", Print(group[0]), Print(group[1]));
  const int64_t last = arg.stride(-1);
  return {data, group[0], group[1], counts[0] == 1 ? 0 : (scale->ndim == 2 ? arg.stride(0) : last),
          counts[1] == 1 ? 0 : last};
}

// The rows of input and result that each thread has: rows(begin, end, from, to), where from(i) and
// to(i) are the memory of row i.
template <class Body>
void ForRows(const vk_tensor& input, const vk_tensor& result, const Body& rows) {
  const vk::Rows from(input), to(result);
  const int64_t item = vk::DtypeSize(input.dtype);
  vk::ParallelFor(
      from.count(), vk::GrainFor(from.width() * (item + 1)), [&](int64_t begin, int64_t end) {
        rows(
            begin, end,
            [&](int64_t i) { return static_cast<const char*>(input.data) + from.Offset(i) * item; },
            [&](int64_t i) { return static_cast<uint8_t*>(result.data) + to.Offset(i); });
      });
}

void StaticQuant(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
                 const int64_t* group_shape) {
  const char* op = "static_scaled_fp8_quant";
  const Arg in = CheckTensors(op, result, input);
  const int64_t width = in.size(-1), count = vk::Rows(*input).count();
  const Groups groups = GroupsOf(op, scale, group_shape, count, width);
  if (width == 0 || count == 0) return;
  const auto quantize = vk::Kernels().quant->scale_fp8[input->dtype];
  // A scale of columns leaves its factors in memory that threads keep.
  const size_t bytes = (groups.by_column() ? width : 1) * sizeof(float);
  ForRows(*input, *result, [&](int64_t begin, int64_t end, const auto& from, const auto& to) {
    float* factors = reinterpret_cast<float*>(vk::ThreadScratch(bytes));
    int64_t known = -1;  // the group of rows that the factors are of
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = groups.row_stride == 0 ? 0 : i / groups.rows;
      if (group != known) groups.Factors(i, width, factors);
      known = group;
      quantize(to(i), from(i), width, factors, groups.by_column());
    }
  });
}

void DynamicQuant(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale) {
  const char* op = "dynamic_scaled_fp8_quant";
  const Arg in = CheckTensors(op, result, input);
  const int64_t width = in.size(-1), count = vk::Rows(*input).count();
  Arg(op, "scale", scale).Dtype({VK_F32});
  VK_CHECK(vk::NumElements(*scale) == 1, "%s: scale has shape %s, want one element", op,
           vk::ShapeString(*scale).c_str());
  const vk::QuantTable& table = *vk::Kernels().quant;
  const int32_t dtype = input->dtype;
  const int64_t values = width == 0 ? 0 : count;
  std::vector<float> largest(values);
  ForRows(*input, *result, [&](int64_t begin, int64_t end, const auto& from, const auto&) {
    for (int64_t i = begin; i < end && width > 0; ++i) {
      largest[i] = table.abs_max[dtype](from(i), width);
    }
  });
  const float most = values == 0 ? 0.0f : *std::max_element(largest.begin(), largest.end());
  const float measured = most / kLargest;
  *static_cast<float*>(scale->data) = measured;
  if (values == 0) return;
  const float factor = measured == 0.0f ? 0.0f : 1.0f / measured;
  ForRows(*input, *result, [&](int64_t begin, int64_t end, const auto& from, const auto& to) {
    for (int64_t i = begin; i < end; ++i) {
      table.scale_fp8[dtype](to(i), from(i), width, &factor, false);
    }
  });
}

void DynamicQuantByRow(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
                       const vk_tensor* scale_ub) {
  const char* op = "dynamic_per_token_scaled_fp8_quant";
  const Arg in = CheckTensors(op, result, input);
  const int64_t width = in.size(-1), count = vk::Rows(*input).count();
  const Arg scales(op, "scale", scale);
  scales.Dtype({VK_F32}).Contiguous();
  VK_CHECK(vk::NumElements(*scale) == count,
           "%s: scale has shape %s, want %lld elements, one for each row of input", op,
           vk::ShapeString(*scale).c_str(), Print(count));
  float most = 0.0f;
  if (scale_ub != nullptr) {
    Arg(op, "scale_ub", scale_ub).Dtype({VK_F32});
    VK_CHECK(vk::NumElements(*scale_ub) == 1, "%s: scale_ub has shape %s, want one element", op,
             vk::ShapeString(*scale_ub).c_str());
    most = *static_cast<const float*>(scale_ub->data);
  }
  float* measured = static_cast<float*>(scale->data);
  if (width == 0) {
    std::fill_n(measured, count, 0.0f);
    return;
  }
  const vk::QuantTable& table = *vk::Kernels().quant;
  const int32_t dtype = input->dtype;
  ForRows(*input, *result, [&](int64_t begin, int64_t end, const auto& from, const auto& to) {
    for (int64_t i = begin; i < end; ++i) {
      const float largest = table.abs_max[dtype](from(i), width);
      const float bounded = scale_ub == nullptr ? largest : std::min(largest, most);
      measured[i] = std::max(bounded / kLargest, kLeastScale);
      table.divide_fp8[dtype](to(i), from(i), width, measured[i]);
    }
  });
}

}  // namespace

extern "C" vk_status vk_cpu_static_scaled_fp8_quant(const vk_tensor* result, const vk_tensor* input,
                                                    const vk_tensor* scale,
                                                    const int64_t* group_shape) {
  return vk::Guard([&] { StaticQuant(result, input, scale, group_shape); });
}

extern "C" vk_status vk_cpu_dynamic_scaled_fp8_quant(const vk_tensor* result,
                                                     const vk_tensor* input,
                                                     const vk_tensor* scale) {
  return vk::Guard([&] { DynamicQuant(result, input, scale); });
}

extern "C" vk_status vk_cpu_dynamic_per_token_scaled_fp8_quant(const vk_tensor* result,
                                                               const vk_tensor* input,
                                                               const vk_tensor* scale,
                                                               const vk_tensor* scale_ub) {
  return vk::Guard([&] { DynamicQuantByRow(result, input, scale, scale_ub); });
}
