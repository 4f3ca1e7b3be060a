#include "cuda/moe_gemm/moe_gemm.h"

#include "torch/cuda_stream.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void MoeMm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& a_scales,
           const Tensor& b_scales, const Tensor& expert_offsets, const Tensor& problem_sizes,
           const Tensor& a_strides, const Tensor& b_strides, const Tensor& c_strides,
           bool per_act_token, bool per_out_ch) {
  const CudaScope scope("cutlass_moe_mm", a);
  Check(vk_cuda_cutlass_moe_mm(
      scope.View("out_tensors", out), scope.View("a_tensors", a), scope.View("b_tensors", b),
      scope.View("a_scales", a_scales), scope.View("b_scales", b_scales),
      scope.View("expert_offsets", expert_offsets), scope.View("problem_sizes", problem_sizes),
      scope.View("a_strides", a_strides), scope.View("b_strides", b_strides),
      scope.View("c_strides", c_strides), per_act_token, per_out_ch, scope.stream()));
}

bool GroupGemmSupported(int64_t capability) { return vk_cuda_group_gemm_supported(capability); }

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) { library.impl("cutlass_moe_mm", TORCH_BOX(&vk::binding::MoeMm)); }

VK_BINDINGS(CompositeExplicitAutograd, library) {
  library.impl("cutlass_group_gemm_supported", TORCH_BOX(&vk::binding::GroupGemmSupported));
}
