#include "cuda/norm/norm.h"

#include "torch/cuda_stream.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void RmsNorm(const Tensor& result, const Tensor& input, const std::optional<Tensor>& weight,
             double epsilon) {
  const CudaScope scope("rms_norm", input);
  Check(vk_cuda_rms_norm(scope.View("result", result), scope.View("input", input),
                         scope.View("weight", weight), epsilon, scope.stream()));
}

void FusedAddRmsNorm(const Tensor& input, const Tensor& residual,
                     const std::optional<Tensor>& weight, double epsilon) {
  const CudaScope scope("fused_add_rms_norm", input);
  Check(vk_cuda_fused_add_rms_norm(scope.View("input", input), scope.View("residual", residual),
                                   scope.View("weight", weight), epsilon, scope.stream()));
}

void RmsNormStatic(const Tensor& result, const Tensor& input, const Tensor& weight,
                   const Tensor& scale, double epsilon) {
  const CudaScope scope("rms_norm_static_fp8_quant", input);
  Check(vk_cuda_rms_norm_static_fp8_quant(scope.View("result", result), scope.View("input", input),
                                          scope.View("weight", weight), scope.View("scale", scale),
                                          epsilon, scope.stream()));
}

void FusedAddRmsNormStatic(const Tensor& result, const Tensor& input, const Tensor& residual,
                           const Tensor& weight, const Tensor& scale, double epsilon) {
  const CudaScope scope("fused_add_rms_norm_static_fp8_quant", input);
  Check(vk_cuda_fused_add_rms_norm_static_fp8_quant(
      scope.View("result", result), scope.View("input", input), scope.View("residual", residual),
      scope.View("weight", weight), scope.View("scale", scale), epsilon, scope.stream()));
}

void RmsNormPerToken(const Tensor& result, const Tensor& input, const Tensor& weight,
                     const Tensor& scale, double epsilon, const std::optional<Tensor>& scale_ub,
                     const std::optional<Tensor>& residual) {
  const CudaScope scope("rms_norm_dynamic_per_token_quant", input);
  Check(vk_cuda_rms_norm_dynamic_per_token_quant(
      scope.View("result", result), scope.View("input", input), scope.View("weight", weight),
      scope.View("scale", scale), epsilon, scope.View("scale_ub", scale_ub),
      scope.View("residual", residual), scope.stream()));
}

void RmsNormPerBlock(const Tensor& result, const Tensor& input, const Tensor& weight,
                     const Tensor& scale, double epsilon, const std::optional<Tensor>& scale_ub,
                     const std::optional<Tensor>& residual, int64_t group_size,
                     bool is_scale_transposed) {
  const CudaScope scope("rms_norm_per_block_quant", input);
  Check(vk_cuda_rms_norm_per_block_quant(
      scope.View("result", result), scope.View("input", input), scope.View("weight", weight),
      scope.View("scale", scale), epsilon, scope.View("scale_ub", scale_ub),
      scope.View("residual", residual), group_size, is_scale_transposed, scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) {
  library.impl("rms_norm", TORCH_BOX(&vk::binding::RmsNorm));
  library.impl("fused_add_rms_norm", TORCH_BOX(&vk::binding::FusedAddRmsNorm));
  library.impl("rms_norm_static_fp8_quant", TORCH_BOX(&vk::binding::RmsNormStatic));
  library.impl("fused_add_rms_norm_static_fp8_quant",
               TORCH_BOX(&vk::binding::FusedAddRmsNormStatic));
  library.impl("rms_norm_dynamic_per_token_quant", TORCH_BOX(&vk::binding::RmsNormPerToken));
  library.impl("rms_norm_per_block_quant", TORCH_BOX(&vk::binding::RmsNormPerBlock));
}
