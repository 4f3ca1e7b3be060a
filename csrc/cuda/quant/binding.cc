#include "cuda/quant/quant.h"

#include <vector>

#include "torch/cuda_stream.h"
#include "torch/registry.h"

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

void DynamicFp8(const Tensor& result, const Tensor& input, const Tensor& scale) {
  const CudaScope scope("dynamic_scaled_fp8_quant", input);
  Check(vk_cuda_dynamic_scaled_fp8_quant(scope.View("result", result), scope.View("input", input),
                                         scope.View("scale", scale), scope.stream()));
}

void DynamicPerTokenFp8(const Tensor& result, const Tensor& input, const Tensor& scale,
                        const std::optional<Tensor>& scale_ub) {
  const CudaScope scope("dynamic_per_token_scaled_fp8_quant", input);
  Check(vk_cuda_dynamic_per_token_scaled_fp8_quant(
      scope.View("result", result), scope.View("input", input), scope.View("scale", scale),
      scope.View("scale_ub", scale_ub), scope.stream()));
}

void StaticInt8(const Tensor& result, const Tensor& input, const Tensor& scale,
                const std::optional<Tensor>& azp) {
  const CudaScope scope("static_scaled_int8_quant", input);
  Check(vk_cuda_static_scaled_int8_quant(scope.View("result", result), scope.View("input", input),
                                         scope.View("scale", scale), scope.View("azp", azp),
                                         scope.stream()));
}

void DynamicInt8(const Tensor& result, const Tensor& input, const Tensor& scale,
                 const std::optional<Tensor>& azp) {
  const CudaScope scope("dynamic_scaled_int8_quant", input);
  Check(vk_cuda_dynamic_scaled_int8_quant(scope.View("result", result), scope.View("input", input),
                                          scope.View("scale", scale), scope.View("azp", azp),
                                          scope.stream()));
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

void GroupFp8Packed(const Tensor& input, const Tensor& output_q, const Tensor& output_s_packed,
                    int64_t group_size, double eps, double fp8_min, double fp8_max) {
  const char* op = "per_token_group_fp8_quant_packed";
  const CudaScope scope(op, input);
  Check(vk_cuda_per_token_group_quant_packed(op, scope.View("input", input),
                                             scope.View("output_q", output_q),
                                             scope.View("output_s_packed", output_s_packed),
                                             group_size, eps, fp8_min, fp8_max, scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) {
  library.impl("static_scaled_fp8_quant", TORCH_BOX(&vk::binding::StaticFp8));
  library.impl("dynamic_scaled_fp8_quant", TORCH_BOX(&vk::binding::DynamicFp8));
  library.impl("dynamic_per_token_scaled_fp8_quant", TORCH_BOX(&vk::binding::DynamicPerTokenFp8));
  library.impl("static_scaled_int8_quant", TORCH_BOX(&vk::binding::StaticInt8));
  library.impl("dynamic_scaled_int8_quant", TORCH_BOX(&vk::binding::DynamicInt8));
  library.impl("per_token_group_fp8_quant", TORCH_BOX(&vk::binding::GroupFp8));
  library.impl("per_token_group_quant_int8", TORCH_BOX(&vk::binding::GroupInt8));
  library.impl("per_token_group_fp8_quant_packed", TORCH_BOX(&vk::binding::GroupFp8Packed));
}
