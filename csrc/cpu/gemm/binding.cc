#include "cpu/gemm/gemm.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

// The engine keeps the handle in a tensor, which torch.compile treats as an opaque input.
int64_t HandleOf(const char* op, const Tensor& handler_tensor) {
  if (!handler_tensor.is_cpu() || DtypeOf(handler_tensor) != VK_I64 ||
      handler_tensor.numel() != 1) {
    throw std::runtime_error(std::string(op) +
                             ": handler_tensor is not what holds a handle, want a CPU tensor of "
                             "one int64");
  }
  return *static_cast<const int64_t*>(handler_tensor.data_ptr());
}

// primitive_cache_size bounds a cache of kernels per number of rows, which we do not need.
int64_t CreateOnednnMmHandler(const vk_tensor* b, int64_t) {
  int64_t handle = 0;
  Check(vk_cpu_create_onednn_mm_handler(b, &handle));
  return handle;
}

void OnednnMm(const vk_tensor* c, const vk_tensor* a, const vk_tensor* bias,
              const Tensor& handler_tensor) {
  Check(vk_cpu_onednn_mm(c, a, bias, HandleOf("onednn_mm", handler_tensor)));
}

int64_t CreateOnednnScaledMmHandler(const vk_tensor* b, const vk_tensor* b_scales,
                                    ScalarType output_type, bool dynamic_act_quant, bool use_azp,
                                    int64_t) {
  int64_t handle = 0;
  Check(vk_cpu_create_onednn_scaled_mm_handler(b, b_scales, ToDtype(output_type), dynamic_act_quant,
                                               use_azp, &handle));
  return handle;
}

void OnednnScaledMm(const vk_tensor* c, const vk_tensor* a, const vk_tensor* a_scales,
                    const vk_tensor* azp, const vk_tensor* azp_adj, const vk_tensor* bias,
                    const Tensor& handler_tensor) {
  Check(vk_cpu_onednn_scaled_mm(c, a, a_scales, azp, azp_adj, bias,
                                HandleOf("onednn_scaled_mm", handler_tensor)));
}

// The Arm Compute Library is an option of oneDNN on AArch64 only.
bool IsOnednnAclSupported() { return false; }

}  // namespace
}  // namespace vk::binding

VK_IMPL(CPU, create_onednn_mm_handler, vk::binding::CreateOnednnMmHandler);
VK_IMPL(CPU, onednn_mm, vk::binding::OnednnMm);
VK_IMPL(CPU, create_onednn_scaled_mm_handler, vk::binding::CreateOnednnScaledMmHandler);
VK_IMPL(CPU, onednn_scaled_mm, vk::binding::OnednnScaledMm);

// There is no tensor argument, hence no device to dispatch on.
VK_BIND(CompositeExplicitAutograd, release_dnnl_matmul_handler, vk_cpu_release_dnnl_matmul_handler);
VK_IMPL(CompositeExplicitAutograd, is_onednn_acl_supported, vk::binding::IsOnednnAclSupported);
