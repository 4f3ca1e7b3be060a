#include "cuda/quant/quant.h"

#include <vector>

#include "torch/bind.h"

namespace vk::binding {
namespace {

void StaticFp8(const Tensor& result, const Tensor& input, const Tensor& scale,
               std::optional<std::vector<int64_t>> group_shape) {
  const CudaScope scope("static_scaled_fp8_quant", input);
  if (group_shape.has_value() && group_shape->size() != 2) {
    throw std::runtime_error("static_scaled_fp8_quant: group_shape has " +
                             std::to_string(group_shape->size()) + " elements, want 2");
  }
  Check(vk_cuda_static_scaled_fp8_quant(
      scope.View("result", result), scope.View("input", input), scope.View("scale", scale),
      group_shape ? group_shape->data() : nullptr, scope.stream()));
}

void GroupQuant(const char* op, const Tensor& input, const Tensor& output_q, const Tensor& output_s,
                int64_t group_size, double eps, double least, double largest, bool scale_ue8m0) {
  const CudaScope scope(op, input);
  Check(vk_cuda_per_token_group_quant(op, scope.View("input", input),
                                      scope.View("output_q", output_q),
                                      scope.View("output_s", output_s), group_size, eps, least,
                                      largest, scale_ue8m0, scope.stream()));
}

// The layout of the scales is in output_s's strides, whatever the last two say.
void GroupFp8(const Tensor& input, const Tensor& output_q, const Tensor& output_s,
              int64_t group_size, double eps, double fp8_min, double fp8_max, bool scale_ue8m0,
              bool /*dummy_is_scale_transposed*/, bool /*dummy_is_tma_aligned*/) {
  GroupQuant("per_token_group_fp8_quant", input, output_q, output_s, group_size, eps, fp8_min,
             fp8_max, scale_ue8m0);
}

void GroupInt8(const Tensor& input, const Tensor& output_q, const Tensor& output_s,
               int64_t group_size, double eps, double int8_min, double int8_max) {
  GroupQuant("per_token_group_quant_int8", input, output_q, output_s, group_size, eps, int8_min,
             int8_max, false);
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, static_scaled_fp8_quant, vk::binding::StaticFp8);
VK_BIND(CUDA, dynamic_scaled_fp8_quant, vk_cuda_dynamic_scaled_fp8_quant);
VK_BIND(CUDA, dynamic_per_token_scaled_fp8_quant, vk_cuda_dynamic_per_token_scaled_fp8_quant);
VK_BIND(CUDA, static_scaled_int8_quant, vk_cuda_static_scaled_int8_quant);
VK_BIND(CUDA, dynamic_scaled_int8_quant, vk_cuda_dynamic_scaled_int8_quant);
VK_IMPL(CUDA, per_token_group_fp8_quant, vk::binding::GroupFp8);
VK_IMPL(CUDA, per_token_group_quant_int8, vk::binding::GroupInt8);
VK_BIND(CUDA, per_token_group_fp8_quant_packed, vk_cuda_per_token_group_quant_packed);
