#include "cpu/quant/quant.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void StaticScaledInt8Quant(const Tensor& result, const Tensor& input, const Tensor& scale,
                           const std::optional<Tensor>& azp) {
  const char* op = "static_scaled_int8_quant";
  Check(vk_cpu_static_scaled_int8_quant(View(op, "result", result), View(op, "input", input),
                                        View(op, "scale", scale), View(op, "azp", azp)));
}

void DynamicScaledInt8Quant(const Tensor& result, const Tensor& input, const Tensor& scale,
                            const std::optional<Tensor>& azp) {
  const char* op = "dynamic_scaled_int8_quant";
  Check(vk_cpu_dynamic_scaled_int8_quant(View(op, "result", result), View(op, "input", input),
                                         View(op, "scale", scale), View(op, "azp", azp)));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) {
  library.impl("static_scaled_int8_quant", TORCH_BOX(&vk::binding::StaticScaledInt8Quant));
  library.impl("dynamic_scaled_int8_quant", TORCH_BOX(&vk::binding::DynamicScaledInt8Quant));
}
