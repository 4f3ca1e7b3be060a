#include "cpu/quant/quant.h"

#include <optional>
#include <vector>

#include "torch/bind.h"

namespace vk::binding {
namespace {

void StaticFp8(const vk_tensor* result, const vk_tensor* input, const vk_tensor* scale,
               std::optional<std::vector<int64_t>> group_shape) {
  if (group_shape.has_value() && group_shape->size() != 2) {
    throw std::runtime_error("static_scaled_fp8_quant: group_shape has " +
                             std::to_string(group_shape->size()) + " elements, want 2");
  }
  Check(vk_cpu_static_scaled_fp8_quant(result, input, scale,
                                       group_shape ? group_shape->data() : nullptr));
}

}  // namespace
}  // namespace vk::binding

VK_BIND(CPU, static_scaled_int8_quant, vk_cpu_static_scaled_int8_quant);
VK_BIND(CPU, dynamic_scaled_int8_quant, vk_cpu_dynamic_scaled_int8_quant);
VK_IMPL(CPU, static_scaled_fp8_quant, vk::binding::StaticFp8);
VK_BIND(CPU, dynamic_scaled_fp8_quant, vk_cpu_dynamic_scaled_fp8_quant);
VK_BIND(CPU, dynamic_per_token_scaled_fp8_quant, vk_cpu_dynamic_per_token_scaled_fp8_quant);
