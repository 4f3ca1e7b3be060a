#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/scale_groups.h"
#include "cpu/dispatch.h"
#include "cpu/quant/quant.h"
#include "cpu/quant/rows.h"
#include "cpu/scratch.h"

namespace {

using vk::Arg;
using vk::Print;

constexpr float kLargest = 448.0f;
constexpr float kLeastScale = 1.0f / (448.0f * 512.0f);

void CheckOne(const char* op, const char* name, const vk_tensor* tensor) {
  Arg(op, name, tensor).Dtype({VK_F32});
  VK_CHECK(vk::NumElements(*tensor) == 1, "%s: %s has shape %s, want one element", op, name,
           vk::ShapeString(*tensor).c_str());
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

void StaticQuant(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
                 const int64_t* group_shape) {
  const char* op = "static_scaled_fp8_quant";
  const Arg in = vk::CheckQuantized(op, result, input, VK_F8E4M3);
  const int64_t width = in.size(-1), count = vk::Rows(*input).count();
  const vk::ScaleGroups groups = vk::FindScaleGroups(op, scale, group_shape, count, width);
  if (width == 0 || count == 0) return;
  const float* scales = static_cast<const float*>(scale->data);
  const bool by_column = groups.column_stride != 0;
  const auto quantize = vk::Kernels().quant->scale_fp8[input->dtype];
  // A scale of columns leaves its factors in memory that threads keep.
  const size_t bytes = (by_column ? width : 1) * sizeof(float);
  const auto rows = [&](int64_t begin, int64_t end, const auto& from, const auto& to) {
    float* factors = reinterpret_cast<float*>(vk::ThreadScratch(bytes));
    int64_t known = -1;  // the group of rows that the factors are of
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = groups.row_stride == 0 ? 0 : i / groups.rows;
      if (group != known) Factors(groups, scales, i, width, factors);
      known = group;
      quantize(to(i), from(i), width, factors, by_column);
    }
  };
  vk::ForRows<uint8_t>(*input, *result, rows);
}

void DynamicQuant(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale) {
  const char* op = "dynamic_scaled_fp8_quant";
  const Arg in = vk::CheckQuantized(op, result, input, VK_F8E4M3);
  const int64_t width = in.size(-1), count = vk::Rows(*input).count();
  CheckOne(op, "scale", scale);
  const vk::QuantTable& table = *vk::Kernels().quant;
  const int32_t dtype = input->dtype;
  const int64_t values = width == 0 ? 0 : count;
  std::vector<float> largest(values);
  if (values > 0) {
    vk::ForEachRow<uint8_t>(*input, *result, [&](int64_t i, const char* from, uint8_t*) {
      largest[i] = table.abs_max[dtype](from, width);
    });
  }
  const float most = values == 0 ? 0.0f : *std::max_element(largest.begin(), largest.end());
  const float measured = most / kLargest;
  *static_cast<float*>(scale->data) = measured;
  if (values == 0) return;
  const float factor = measured == 0.0f ? 0.0f : 1.0f / measured;
  vk::ForEachRow<uint8_t>(*input, *result, [&](int64_t, const char* from, uint8_t* to) {
    table.scale_fp8[dtype](to, from, width, &factor, false);
  });
}

void DynamicQuantByRow(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
                       const vk_tensor* scale_ub) {
  const char* op = "dynamic_per_token_scaled_fp8_quant";
  const Arg in = vk::CheckQuantized(op, result, input, VK_F8E4M3);
  const int64_t width = in.size(-1), count = vk::Rows(*input).count();
  const Arg scales(op, "scale", scale);
  scales.Dtype({VK_F32}).Contiguous();
  VK_CHECK(vk::NumElements(*scale) == count,
           "%s: scale has shape %s, want %lld elements, one for each row of input", op,
           vk::ShapeString(*scale).c_str(), Print(count));
  float most = 0.0f;
  if (scale_ub != nullptr) {
    CheckOne(op, "scale_ub", scale_ub);
    most = *static_cast<const float*>(scale_ub->data);
  }
  float* measured = static_cast<float*>(scale->data);
  if (width == 0) {
    std::fill_n(measured, count, 0.0f);
    return;
  }
  const vk::QuantTable& table = *vk::Kernels().quant;
  const int32_t dtype = input->dtype;
  vk::ForEachRow<uint8_t>(*input, *result, [&](int64_t i, const char* from, uint8_t* to) {
    const float largest = table.abs_max[dtype](from, width);
    const float bounded = scale_ub == nullptr ? largest : std::min(largest, most);
    measured[i] = std::max(bounded / kLargest, kLeastScale);
    table.divide_fp8[dtype](to, from, width, measured[i]);
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
