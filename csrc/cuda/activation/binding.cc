#include "cuda/activation/activation.h"

#include "torch/cuda_stream.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

// X(op, name of its output)
#define VK_ACTIVATIONS(X)     \
  X(silu_and_mul, "result")   \
  X(mul_and_silu, "out")      \
  X(gelu_and_mul, "out")      \
  X(gelu_tanh_and_mul, "out") \
  X(gelu_new, "out")          \
  X(gelu_fast, "out")         \
  X(gelu_quick, "out")        \
  X(gelu_tanh, "out")         \
  X(relu_squared, "out")

#define VK_BIND(name, out_name)                                                                   \
  void Call_##name(const Tensor& out, const Tensor& input) {                                      \
    const CudaScope scope(#name, input);                                                          \
    Check(vk_cuda_##name(scope.View(out_name, out), scope.View("input", input), scope.stream())); \
  }
VK_ACTIVATIONS(VK_BIND)

void FatreluAndMul(const Tensor& out, const Tensor& input, double threshold) {
  const CudaScope scope("fatrelu_and_mul", input);
  Check(vk_cuda_fatrelu_and_mul(scope.View("out", out), scope.View("input", input), threshold,
                                scope.stream()));
}

void SiluAndMulWithClamp(const Tensor& result, const Tensor& input, double limit, double alpha,
                         double beta) {
  const CudaScope scope("silu_and_mul_with_clamp", input);
  Check(vk_cuda_silu_and_mul_with_clamp(scope.View("result", result), scope.View("input", input),
                                        limit, alpha, beta, scope.stream()));
}

void SwigluOaiAndMul(const Tensor& out, const Tensor& input, double alpha, double limit) {
  const CudaScope scope("swigluoai_and_mul", input);
  Check(vk_cuda_swigluoai_and_mul(scope.View("out", out), scope.View("input", input), alpha, limit,
                                  scope.stream()));
}

void SiluAndMulQuant(const Tensor& result, const Tensor& input, const Tensor& scale) {
  const CudaScope scope("silu_and_mul_quant", input);
  Check(vk_cuda_silu_and_mul_quant(scope.View("result", result), scope.View("input", input),
                                   scope.View("scale", scale), scope.stream()));
}

void SiluAndMulPerBlockQuant(const Tensor& out, const Tensor& input, const Tensor& scales,
                             int64_t group_size, const std::optional<Tensor>& scale_ub,
                             bool is_scale_transposed) {
  const CudaScope scope("silu_and_mul_per_block_quant", input);
  Check(vk_cuda_silu_and_mul_per_block_quant(
      scope.View("out", out), scope.View("input", input), scope.View("scales", scales), group_size,
      scope.View("scale_ub", scale_ub), is_scale_transposed, scope.stream()));
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) {
#define VK_REGISTER(name, out_name) library.impl(#name, TORCH_BOX(&vk::binding::Call_##name));
  VK_ACTIVATIONS(VK_REGISTER)
  library.impl("fatrelu_and_mul", TORCH_BOX(&vk::binding::FatreluAndMul));
  library.impl("silu_and_mul_with_clamp", TORCH_BOX(&vk::binding::SiluAndMulWithClamp));
  library.impl("swigluoai_and_mul", TORCH_BOX(&vk::binding::SwigluOaiAndMul));
  library.impl("silu_and_mul_quant", TORCH_BOX(&vk::binding::SiluAndMulQuant));
  library.impl("silu_and_mul_per_block_quant", TORCH_BOX(&vk::binding::SiluAndMulPerBlockQuant));
}
