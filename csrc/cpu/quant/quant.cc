#include "cpu/quant/quant.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "cpu/dispatch.h"
#include "cpu/quant/rows.h"

namespace {

using vk::Arg;
using vk::QuantTable;

constexpr float kMaxZeroPoint = 4194304.0f;  // 2^22: beyond it float32 cannot hold 8 bits more

struct Parameters {
  float scale;
  float zero_point;
};

Parameters Symmetric(float abs_max) { return {vk::Int8Scale(abs_max), 0.0f}; }

Parameters Asymmetric(QuantTable::Range range) {
  float scale = (range.max - range.min) / 255.0f;
  if (std::isinf(scale)) scale = range.max / 255.0f - range.min / 255.0f;
  const float zero_point = std::nearbyint(-128.0f - range.min / scale);
  if (std::fabs(zero_point) <= kMaxZeroPoint) return {scale, zero_point};
  return Symmetric(std::fmax(std::fabs(range.min), std::fabs(range.max)));
}

void CheckCount(const char* op, const char* name, const vk_tensor* tensor, vk_dtype dtype,
                int64_t count, const char* what) {
  Arg(op, name, tensor).Dtype({dtype}).Contiguous();
  VK_CHECK(vk::NumElements(*tensor) == count, "%s: %s has shape %s, want %lld elements, one %s", op,
           name, vk::ShapeString(*tensor).c_str(), static_cast<long long>(count), what);
}

void StaticQuant(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
                 const vk_tensor* azp) {
  const char* op = "static_scaled_int8_quant";
  const Arg in = vk::CheckQuantized(op, result, input, VK_I8);
  CheckCount(op, "scale", scale, VK_F32, 1, "for the tensor");
  if (azp != nullptr) CheckCount(op, "azp", azp, VK_I32, 1, "for the tensor");
  if (in.size(-1) == 0) return;  // however many rows there are
  const auto quantize = vk::Kernels().quant->quantize[input->dtype];
  const float inverse = 1.0f / *static_cast<const float*>(scale->data);
  const float zero_point = azp ? static_cast<float>(*static_cast<const int32_t*>(azp->data)) : 0.0f;
  const size_t width = in.size(-1);
  vk::ForEachRow<int8_t>(*input, *result, [&](int64_t, const void* from, int8_t* to) {
    quantize(to, from, width, inverse, zero_point);
  });
}

void DynamicQuant(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
                  const vk_tensor* azp) {
  const char* op = "dynamic_scaled_int8_quant";
  const Arg in = vk::CheckQuantized(op, result, input, VK_I8);
  const int64_t rows = vk::Rows(*input).count();
  CheckCount(op, "scale", scale, VK_F32, rows, "for each row of input");
  if (azp != nullptr) CheckCount(op, "azp", azp, VK_I32, rows, "for each row of input");
  const QuantTable& table = *vk::Kernels().quant;
  const int32_t dtype = input->dtype;
  float* scales = static_cast<float*>(scale->data);
  int32_t* zero_points = azp ? static_cast<int32_t*>(azp->data) : nullptr;
  const size_t width = in.size(-1);
  if (width == 0) {
    std::fill_n(scales, rows, 0.0f);
    if (zero_points != nullptr) std::fill_n(zero_points, rows, 0);
    return;
  }
  vk::ForEachRow<int8_t>(*input, *result, [&](int64_t row, const void* from, int8_t* to) {
    const Parameters found = zero_points ? Asymmetric(table.range[dtype](from, width))
                                         : Symmetric(table.abs_max[dtype](from, width));
    scales[row] = found.scale;
    if (zero_points) zero_points[row] = static_cast<int32_t>(found.zero_point);
    table.quantize[dtype](to, from, width, vk::InverseScale(found.scale), found.zero_point);
  });
}

}  // namespace

extern "C" vk_status vk_cpu_static_scaled_int8_quant(const vk_tensor* result,
                                                     const vk_tensor* input, const vk_tensor* scale,
                                                     const vk_tensor* azp) {
  return vk::Guard([&] { StaticQuant(result, input, scale, azp); });
}

extern "C" vk_status vk_cpu_dynamic_scaled_int8_quant(const vk_tensor* result,
                                                      const vk_tensor* input,
                                                      const vk_tensor* scale,
                                                      const vk_tensor* azp) {
  return vk::Guard([&] { DynamicQuant(result, input, scale, azp); });
}
