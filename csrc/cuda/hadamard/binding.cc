#include "cuda/hadamard/hadamard.h"

#include <torch/csrc/stable/ops.h>

#include "torch/bind.h"

namespace vk::binding {
namespace {

Tensor Transform(const Tensor& x, bool inplace) {
  const char* op = "hadacore_transform";
  const CudaScope scope(op, x);
  const Tensor out = inplace ? x : scope.NewEmpty("out", x, x.sizes());
  Check(vk_cuda_hadacore_transform(scope.View("out", out), scope.View("x", x), scope.stream()));
  return out;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, hadacore_transform, vk::binding::Transform);
