#include "cpu/norm/norm.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void RmsNorm(const Tensor& result, const Tensor& input, const std::optional<Tensor>& weight,
             double epsilon) {
  const char* op = "rms_norm";
  Check(vk_cpu_rms_norm(View(op, "result", result), View(op, "input", input),
                        View(op, "weight", weight), epsilon));
}

void FusedAddRmsNorm(const Tensor& input, const Tensor& residual,
                     const std::optional<Tensor>& weight, double epsilon) {
  const char* op = "fused_add_rms_norm";
  Check(vk_cpu_fused_add_rms_norm(View(op, "input", input), View(op, "residual", residual),
                                  View(op, "weight", weight), epsilon));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) {
  library.impl("rms_norm", TORCH_BOX(&vk::binding::RmsNorm));
  library.impl("fused_add_rms_norm", TORCH_BOX(&vk::binding::FusedAddRmsNorm));
}
