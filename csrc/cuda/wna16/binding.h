// What the bindings of products share: how a product is computed once its operands are views.
#ifndef VLLM_KERNELS_CUDA_WNA16_BINDING_H_
#define VLLM_KERNELS_CUDA_WNA16_BINDING_H_

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <optional>
#include <string>

#include "cuda/wna16/wna16.h"
#include "torch/bind.h"

namespace vk::binding {

inline bool IsGiven(const std::optional<Tensor>& tensor) {
  return tensor.has_value() && tensor->numel() > 0;
}

// a @ weight.t() + bias by PyTorch: weight is [N, K].
inline Tensor Linear(const Tensor& a, const Tensor& weight, const std::optional<Tensor>& bias) {
  std::array<StableIValue, 3> stack = {torch::stable::detail::from(a),
                                       torch::stable::detail::from(weight),
                                       torch::stable::detail::from(bias)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// PyTorch's products and copies would say so themselves, in words of their own.
inline void CheckSameDtype(const char* op, const char* name, const Tensor& tensor,
                           const char* other_name, const Tensor& other) {
  const int32_t dtype = DtypeOf(tensor);
  if (dtype >= 0 && dtype == DtypeOf(other)) return;
  Refuse(op, name, std::string(" is of another dtype than ") + other_name + ", want the same");
}

inline void CheckResult(const char* op, const Tensor& c, const Tensor& a, int64_t rows,
                        int64_t columns) {
  CheckDims(op, "c_or_none", c, 2, "[M, N]");
  CheckSameDtype(op, "c_or_none", c, "a", a);
  if (c.size(0) == rows && c.size(1) == columns) return;
  const int64_t want[] = {rows, columns};
  Refuse(op, "c_or_none",
         " is of shape " + Sizes(c.sizes().data(), 2) + ", want " + Sizes(want, 2));
}

// With weights dequantized to memory and PyTorch's GEMM.
inline Tensor GemmDequantized(const CudaScope& scope, const vk_marlin_problem& problem,
                              const Tensor& a, const std::optional<Tensor>& bias,
                              const std::optional<Tensor>& perm) {
  const Tensor weight = scope.NewEmpty("weight", a, {problem.n, problem.k});
  std::optional<Tensor> plain_bias;
  if (IsGiven(bias)) plain_bias = scope.NewEmpty("bias", *bias, bias->sizes());
  Check(vk_cuda_marlin_dequantize(scope.View("weight", weight), scope.View("bias", plain_bias),
                                  &problem, scope.stream()));
  if (!IsGiven(perm)) return Linear(a, weight, plain_bias);
  const Tensor ordered = scope.NewEmpty("a", a, {problem.m, problem.k});
  Check(vk_cuda_permute_cols(scope.View("a", ordered), scope.View("a", a), scope.View("perm", perm),
                             scope.stream()));
  return Linear(ordered, weight, plain_bias);
}

// The product of a problem, which says in `scaled` whether it has its scales of tokens and
// channels, into `c_or_none` or a tensor of its own.
inline Tensor Product(const CudaScope& scope, const char* op, const vk_marlin_problem& problem,
                      const Tensor& a, const std::optional<Tensor>& c_or_none,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& perm,
                      const Tensor& workspace, bool* scaled = nullptr) {
  vk_marlin_plan plan;
  Check(vk_cuda_marlin_plan(&problem, workspace.numel(), &plan));
  if (scaled != nullptr) *scaled = plan.scales_result;
  if (plan.dequantize) {
    if (c_or_none.has_value()) CheckResult(op, *c_or_none, a, problem.m, problem.n);
    scope.CheckRoom("c", a, {problem.m, problem.n});
    Tensor product = GemmDequantized(scope, problem, a, bias, perm);
    if (!c_or_none.has_value()) return product;
    Tensor c = *c_or_none;
    torch::stable::copy_(c, product);
    return c;
  }
  const Tensor c =
      c_or_none.has_value() ? *c_or_none : scope.NewEmpty("c", a, {problem.m, problem.n});
  const std::optional<Tensor> scratch = scope.NewBytes("scratch", a, plan.scratch_bytes);
  Check(vk_cuda_marlin_gemm(scope.View("c", c), &problem, scope.View("workspace", workspace),
                            scope.View("scratch", scratch), scope.stream()));
  return c;
}

}  // namespace vk::binding
#endif  // VLLM_KERNELS_CUDA_WNA16_BINDING_H_
