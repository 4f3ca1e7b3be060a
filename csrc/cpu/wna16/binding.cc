#include "cpu/wna16/wna16.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void CpuGemmWna16(const Tensor& input, const Tensor& q_weight, const Tensor& output,
                  const Tensor& scales, const std::optional<Tensor>& zeros,
                  const std::optional<Tensor>& g_idx, const std::optional<Tensor>& bias,
                  int64_t pack_factor, std::string isa_hint) {
  const char* op = "cpu_gemm_wna16";
  Check(vk_cpu_gemm_wna16(View(op, "input", input), View(op, "q_weight", q_weight),
                          View(op, "output", output), View(op, "scales", scales),
                          View(op, "zeros", zeros), View(op, "g_idx", g_idx),
                          View(op, "bias", bias), pack_factor, isa_hint.c_str()));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) { library.impl("cpu_gemm_wna16", TORCH_BOX(&vk::binding::CpuGemmWna16)); }
