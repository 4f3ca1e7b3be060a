#include "cpu/activation/activation.h"

#include "torch/convert.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

// X(op, name of its output)
#define VK_ACTIVATIONS(X)     \
  X(silu_and_mul, "result")   \
  X(gelu_and_mul, "out")      \
  X(gelu_tanh_and_mul, "out") \
  X(gelu_new, "out")          \
  X(gelu_fast, "out")         \
  X(gelu_quick, "out")        \
  X(gelu_tanh, "out")

#define VK_BIND(name, out_name)                                                    \
  void Call_##name(const Tensor& out, const Tensor& input) {                       \
    Check(vk_cpu_##name(View(#name, out_name, out), View(#name, "input", input))); \
  }
VK_ACTIVATIONS(VK_BIND)

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CPU, library) {
#define VK_REGISTER(name, out_name) library.impl(#name, TORCH_BOX(&vk::binding::Call_##name));
  VK_ACTIVATIONS(VK_REGISTER)
}
