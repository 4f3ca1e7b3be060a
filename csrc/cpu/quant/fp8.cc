#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/scale_groups.h"
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

// The factors of `width` columns of a row; one of them without scales by column.
void Factors(const vk::ScaleGroups& groups, const float* scales, int64_t row, int64_t width,
             float* factors) {
  scales += row / groups.rows * groups.row_stride;
  for (int64_t j = 0; j < (groups.column_stride != 0 ? width : 1); ++j) {
    const float scale = scales[j / groups.columns * groups.column_stride];
    factors[j] = scale == 0.0f ? 0.0f : 1.0f / scale;
  }
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
  const vk::ScaleGroups groups = vk::FindScaleGroups(op, scale, group_shape, count, width);
  if (width == 0 || count == 0) return;
  const float* scales = static_cast<const float*>(scale->data);
  const bool by_column = groups.column_stride != 0;
  const auto quantize = vk::Kernels().quant->scale_fp8[input->dtype];
  // A scale of columns leaves its factors in memory that threads keep.
  const size_t bytes = (by_column ? width : 1) * sizeof(float);
  ForRows(*input, *result, [&](int64_t begin, int64_t end, const auto& from, const auto& to) {
    float* factors = reinterpret_cast<float*>(vk::ThreadScratch(bytes));
    int64_t known = -1;  // the group of rows that the factors are of
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = groups.row_stride == 0 ? 0 : i / groups.rows;
      if (group != known) Factors(groups, scales, i, width, factors);
      known = group;
      quantize(to(i), from(i), width, factors, by_column);
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
