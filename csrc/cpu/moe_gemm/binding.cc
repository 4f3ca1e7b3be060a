#include "cpu/moe_gemm/moe_gemm.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void PrepackMoeWeight(const Tensor& weight, const Tensor& packed_weight, std::string isa) {
  const char* op = "prepack_moe_weight";
  Check(vk_cpu_prepack_moe_weight(View(op, "weight", weight),
                                  View(op, "packed_weight", packed_weight), isa.c_str()));
}

void CpuFusedMoe(const Tensor& output, const Tensor& input, const Tensor& w13, const Tensor& w2,
                 const std::optional<Tensor>& w13_bias, const std::optional<Tensor>& w2_bias,
                 const Tensor& topk_weights, const Tensor& topk_id, bool skip_weighted,
                 std::string act, std::string isa) {
  const char* op = "cpu_fused_moe";
  Check(vk_cpu_fused_moe(View(op, "output", output), View(op, "input", input), View(op, "w13", w13),
                         View(op, "w2", w2), View(op, "w13_bias", w13_bias),
                         View(op, "w2_bias", w2_bias), View(op, "topk_weights", topk_weights),
                         View(op, "topk_id", topk_id), skip_weighted, act.c_str(), isa.c_str()));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) {
  library.impl("prepack_moe_weight", TORCH_BOX(&vk::binding::PrepackMoeWeight));
  library.impl("cpu_fused_moe", TORCH_BOX(&vk::binding::CpuFusedMoe));
}
