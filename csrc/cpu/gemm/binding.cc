#include "cpu/gemm/gemm.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

// The engine keeps the handle in a tensor, which torch.compile treats as an opaque input.
int64_t HandleOf(const char* op, const Tensor& handler_tensor) {
  if (!handler_tensor.is_cpu() || handler_tensor.scalar_type() != ScalarType::Long ||
      handler_tensor.numel() != 1) {
    throw std::runtime_error(std::string(op) +
                             ": handler_tensor is not what holds a handle, want a CPU tensor of "
                             "one int64");
  }
  return *static_cast<const int64_t*>(handler_tensor.data_ptr());
}

// primitive_cache_size bounds a cache of kernels per number of rows, which we do not need.
int64_t CreateOnednnMmHandler(const Tensor& b, int64_t) {
  int64_t handle = 0;
  Check(vk_cpu_create_onednn_mm_handler(View("create_onednn_mm_handler", "b", b), &handle));
  return handle;
}

void OnednnMm(const Tensor& c, const Tensor& a, const std::optional<Tensor>& bias,
              const Tensor& handler_tensor) {
  const char* op = "onednn_mm";
  Check(vk_cpu_onednn_mm(View(op, "c", c), View(op, "a", a), View(op, "bias", bias),
                         HandleOf(op, handler_tensor)));
}

int64_t CreateOnednnScaledMmHandler(const Tensor& b, const Tensor& b_scales, ScalarType output_type,
                                    bool dynamic_act_quant, bool use_azp, int64_t) {
  const char* op = "create_onednn_scaled_mm_handler";
  int64_t handle = 0;
  Check(vk_cpu_create_onednn_scaled_mm_handler(View(op, "b", b), View(op, "b_scales", b_scales),
                                               ToDtype(output_type), dynamic_act_quant, use_azp,
                                               &handle));
  return handle;
}

void OnednnScaledMm(const Tensor& c, const Tensor& a, const Tensor& a_scales,
                    const std::optional<Tensor>& azp, const std::optional<Tensor>& azp_adj,
                    const std::optional<Tensor>& bias, const Tensor& handler_tensor) {
  const char* op = "onednn_scaled_mm";
  Check(vk_cpu_onednn_scaled_mm(View(op, "c", c), View(op, "a", a), View(op, "a_scales", a_scales),
                                View(op, "azp", azp), View(op, "azp_adj", azp_adj),
                                View(op, "bias", bias), HandleOf(op, handler_tensor)));
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
