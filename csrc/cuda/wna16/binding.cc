#include "cuda/wna16/binding.h"
#include "core/checked.h"

namespace vk::binding {
namespace {

void CheckSixteenBitActivations(const char* op, bool is_a_8bit) {
  if (is_a_8bit) {
    throw std::runtime_error(std::string(op) +
                             ": no kernel for activations of 8 bits (is_a_8bit), only for float16 "
                             "and bfloat16; unset VLLM_MARLIN_INPUT_DTYPE");
  }
}

// The weight's words in another order: as many as the sizes, which may be any numbers, want.
Tensor EmptyRepacked(const CudaScope& scope, const char* op, const Tensor& weight, int64_t size_k,
                     int64_t size_n, int64_t num_bits) {
  if (num_bits != 4 && num_bits != 8) {
    Refuse(op, "num_bits", " is " + std::to_string(num_bits) + ", want 4 or 8");
  }
  int64_t values = 0;
  if (size_k < 0 || size_n < 0 || !Multiply(size_k, size_n, &values) ||
      values % (32 / num_bits) != 0 || values / (32 / num_bits) != weight.numel()) {
    Refuse(op, "b_q_weight",
           " has " + std::to_string(weight.numel()) +
               " words, want those of size_k x size_n = " + std::to_string(size_k) + " x " +
               std::to_string(size_n) + " weights of " + std::to_string(num_bits) + " bits");
  }
  return scope.NewEmpty("out", weight, {size_k / 16, size_n / 2 * num_bits}, ScalarType::Int);
}

Tensor GptqMarlinRepack(const Tensor& b_q_weight, const Tensor& perm, int64_t size_k,
                        int64_t size_n, int64_t num_bits, bool is_a_8bit) {
  const char* op = "gptq_marlin_repack";
  CheckSixteenBitActivations(op, is_a_8bit);
  const CudaScope scope(op, b_q_weight);
  const Tensor out = EmptyRepacked(scope, op, b_q_weight, size_k, size_n, num_bits);
  Check(vk_cuda_gptq_marlin_repack(scope.View("out", out), scope.View("b_q_weight", b_q_weight),
                                   scope.View("perm", perm), size_k, size_n, num_bits,
                                   scope.stream()));
  return out;
}

Tensor AwqMarlinRepack(const Tensor& b_q_weight, int64_t size_k, int64_t size_n, int64_t num_bits,
                       bool is_a_8bit) {
  const char* op = "awq_marlin_repack";
  CheckSixteenBitActivations(op, is_a_8bit);
  const CudaScope scope(op, b_q_weight);
  const Tensor out = EmptyRepacked(scope, op, b_q_weight, size_k, size_n, num_bits);
  Check(vk_cuda_awq_marlin_repack(scope.View("out", out), scope.View("b_q_weight", b_q_weight),
                                  size_k, size_n, num_bits, scope.stream()));
  return out;
}

void CheckMarlinOptions(const char* op, const std::optional<Tensor>& a_scales, bool is_zp_float) {
  const char* what = IsGiven(a_scales) ? "a_scales (activations of 8 bits)"
                     : is_zp_float     ? "is_zp_float (HQQ's floating zero points)"
                                       : nullptr;
  if (what != nullptr) {
    throw std::runtime_error(std::string(op) + ": no kernel for " + what);
  }
}

// use_atomic_add and use_fp32_reduce choose how partial sums are added; here that is always in
// float32 and in order.
Tensor MarlinGemm(const Tensor& a, const std::optional<Tensor>& c_or_none, const Tensor& b_q_weight,
                  const std::optional<Tensor>& b_bias_or_none, const Tensor& b_scales,
                  const std::optional<Tensor>& a_scales, const std::optional<Tensor>& global_scale,
                  const std::optional<Tensor>& b_zeros_or_none,
                  const std::optional<Tensor>& g_idx_or_none,
                  const std::optional<Tensor>& perm_or_none, const Tensor& workspace,
                  int64_t b_type_id, int64_t size_m, int64_t size_n, int64_t size_k, bool is_k_full,
                  bool, bool, bool is_zp_float) {
  const char* op = "marlin_gemm";
  CheckMarlinOptions(op, a_scales, is_zp_float);
  const CudaScope scope(op, a);
  const auto a_view = scope.View("a", a), weight_view = scope.View("b_q_weight", b_q_weight),
             bias_view = scope.View("b_bias", b_bias_or_none),
             scales_view = scope.View("b_scales", b_scales),
             global_view = scope.View("global_scale", global_scale),
             zeros_view = scope.View("b_zeros", b_zeros_or_none),
             g_idx_view = scope.View("g_idx", g_idx_or_none),
             perm_view = scope.View("perm", perm_or_none);
  const vk_marlin_problem problem = {a_view,     weight_view, bias_view, scales_view, global_view,
                                     zeros_view, g_idx_view,  perm_view, b_type_id,   size_m,
                                     size_n,     size_k,      is_k_full, nullptr,     nullptr};
  return Product(scope, op, problem, a, c_or_none, b_bias_or_none, perm_or_none, workspace);
}

// thread_k, thread_n and blocks_per_sm are hints to another kernel; is_full_k matters to g_idx
// alone, which experts do not have here.
Tensor MoeMarlinGemm(const Tensor& a, const std::optional<Tensor>& c_or_none,
                     const Tensor& b_q_weight, const std::optional<Tensor>& b_bias_or_none,
                     const Tensor& b_scales, const std::optional<Tensor>& a_scales,
                     const std::optional<Tensor>& global_scale,
                     const std::optional<Tensor>& b_zeros_or_none,
                     const std::optional<Tensor>& g_idx_or_none,
                     const std::optional<Tensor>& perm_or_none, const Tensor& workspace,
                     const Tensor& sorted_token_ids, const Tensor& expert_ids,
                     const Tensor& num_tokens_past_padded, const Tensor& topk_weights,
                     int64_t moe_block_size, int64_t top_k, bool mul_topk_weights,
                     int64_t b_type_id, int64_t size_m, int64_t size_n, int64_t size_k, bool, bool,
                     bool, bool is_zp_float, int64_t, int64_t, int64_t) {
  const char* op = "moe_wna16_marlin_gemm";
  CheckMarlinOptions(op, a_scales, is_zp_float);
  const CudaScope scope(op, a);
  const auto a_view = scope.View("a", a), weight_view = scope.View("b_q_weight", b_q_weight),
             bias_view = scope.View("b_bias", b_bias_or_none),
             scales_view = scope.View("b_scales", b_scales),
             global_view = scope.View("global_scale", global_scale),
             zeros_view = scope.View("b_zeros", b_zeros_or_none),
             g_idx_view = scope.View("g_idx", g_idx_or_none),
             perm_view = scope.View("perm", perm_or_none),
             sorted_view = scope.View("sorted_token_ids", sorted_token_ids),
             experts_view = scope.View("expert_ids", expert_ids),
             padded_view = scope.View("num_tokens_past_padded", num_tokens_past_padded),
             factors_view = scope.View("topk_weights", topk_weights);
  const vk_marlin_problem problem = {a_view,     weight_view, bias_view, scales_view, global_view,
                                     zeros_view, g_idx_view,  perm_view, b_type_id,   size_m,
                                     size_n,     size_k,      1,         nullptr,     nullptr};
  const vk_tensor* const factors = factors_view;
  const vk_marlin_experts experts = {sorted_view,    experts_view,
                                     padded_view,    mul_topk_weights ? factors : nullptr,
                                     moe_block_size, top_k};
  int64_t bytes = 0;
  Check(vk_cuda_moe_marlin_scratch(&problem, &experts, workspace.numel(), &bytes));
  const Tensor c =
      c_or_none.has_value() ? *c_or_none : scope.NewEmpty("c", a, {size_m * top_k, size_n});
  const std::optional<Tensor> scratch = scope.NewBytes("scratch", a, bytes);
  Check(vk_cuda_moe_marlin_gemm(scope.View("c", c), &problem, &experts,
                                scope.View("workspace", workspace), scope.View("scratch", scratch),
                                scope.stream()));
  return c;
}

Tensor PermuteCols(const Tensor& a, const Tensor& perm) {
  const CudaScope scope("permute_cols", a);
  const Tensor out = scope.NewEmpty("out", a, a.sizes());
  Check(vk_cuda_permute_cols(scope.View("out", out), scope.View("A", a), scope.View("perm", perm),
                             scope.stream()));
  return out;
}

Tensor GptqGemm(const Tensor& a, const Tensor& b_q_weight, const Tensor& b_gptq_qzeros,
                const Tensor& b_gptq_scales, const Tensor& b_g_idx, bool use_exllama,
                bool use_v2_format, int64_t bit) {
  const char* op = "gptq_gemm";
  const CudaScope scope(op, a);
  const auto weight_view = scope.View("b_q_weight", b_q_weight),
             zeros_view = scope.View("b_gptq_qzeros", b_gptq_qzeros),
             scales_view = scope.View("b_gptq_scales", b_gptq_scales),
             g_idx_view = scope.View("b_g_idx", b_g_idx);
  const vk_gptq_weights weights = {weight_view, zeros_view,    scales_view, g_idx_view,
                                   use_exllama, use_v2_format, bit};
  CheckDims(op, "a", a, 2, "[M, K]");
  CheckDims(op, "b_q_weight", b_q_weight, 2, "[K * bit / 32, N]");
  CheckSameDtype(op, "a", a, "b_gptq_scales", b_gptq_scales);
  const int64_t m = a.size(0), k = a.size(1), n = b_q_weight.size(1);
  if (vk_cuda_unpacked_prefers_dequantize(m)) {
    scope.CheckRoom("c", a, {m, n});
    const Tensor weight = scope.NewEmpty("weight", b_gptq_scales, {k, n});
    Check(vk_cuda_gptq_dequantize(scope.View("weight", weight), &weights, scope.stream()));
    return torch::stable::matmul(a, weight);
  }
  const Tensor c = scope.NewEmpty("c", a, {m, n});
  const std::optional<Tensor> scratch =
      scope.NewBytes("scratch", a, vk_cuda_unpacked_scratch(m, n, k));
  Check(vk_cuda_gptq_gemm(scope.View("c", c), scope.View("a", a), &weights,
                          scope.View("scratch", scratch), scope.stream()));
  return c;
}

void GptqShuffle(const Tensor& q_weight, const Tensor& q_perm, int64_t bit) {
  const char* op = "gptq_shuffle";
  const CudaScope scope(op, q_weight);
  if (q_perm.numel() == 0) return;  // the order of a checkpoint without act_order serves as it is
  const Tensor before = torch::stable::clone(q_weight);
  Check(vk_cuda_gptq_shuffle(scope.View("q_weight", q_weight), scope.View("q_weight", before),
                             scope.View("q_perm", q_perm), bit, scope.stream()));
}

Tensor AwqDequantize(const Tensor& kernel, const Tensor& scaling_factors, const Tensor& zeros,
                     int64_t, int64_t, int64_t) {
  const char* op = "awq_dequantize";
  const CudaScope scope(op, kernel);
  CheckDims(op, "_kernel", kernel, 2, "[K, N / 8]");
  const Tensor out = scope.NewEmpty(
      "out", scaling_factors, {kernel.size(0), SaturatingMultiply<int64_t>(kernel.size(1), 8)});
  Check(vk_cuda_awq_dequantize(scope.View("out", out), scope.View("_kernel", kernel),
                               scope.View("_scaling_factors", scaling_factors),
                               scope.View("_zeros", zeros), scope.stream()));
  return out;
}

Tensor AwqGemm(const Tensor& in_feats, const Tensor& kernel, const Tensor& scaling_factors,
               const Tensor& zeros, int64_t) {
  const char* op = "awq_gemm";
  const CudaScope scope(op, in_feats);
  CheckDims(op, "_in_feats", in_feats, 2, "[M, K]");
  CheckDims(op, "_kernel", kernel, 2, "[K, N / 8]");
  CheckSameDtype(op, "_in_feats", in_feats, "_scaling_factors", scaling_factors);
  const int64_t m = in_feats.size(0), k = kernel.size(0);
  const int64_t n = SaturatingMultiply<int64_t>(kernel.size(1), 8);
  if (in_feats.size(1) != k) {
    Refuse(op, "_in_feats",
           " has " + std::to_string(in_feats.size(1)) + " columns, want " + std::to_string(k) +
               ", the rows of _kernel");
  }
  if (vk_cuda_unpacked_prefers_dequantize(m)) {
    scope.CheckRoom("out", in_feats, {m, n});
    return torch::stable::matmul(in_feats, AwqDequantize(kernel, scaling_factors, zeros, 0, 0, 0));
  }
  const Tensor c = scope.NewEmpty("out", in_feats, {m, n});
  const std::optional<Tensor> scratch =
      scope.NewBytes("scratch", in_feats, vk_cuda_unpacked_scratch(m, n, k));
  Check(vk_cuda_awq_gemm(
      scope.View("out", c), scope.View("_in_feats", in_feats), scope.View("_kernel", kernel),
      scope.View("_scaling_factors", scaling_factors), scope.View("_zeros", zeros),
      scope.View("scratch", scratch), scope.stream()));
  return c;
}

// The engine's choice of BLOCK_SIZE_N and BLOCK_SIZE_K is about its own kernel.
Tensor MoeWna16Gemm(const Tensor& input, const Tensor& output, const Tensor& b_qweight,
                    const Tensor& b_scales, const std::optional<Tensor>& b_qzeros,
                    const std::optional<Tensor>& topk_weights, const Tensor& sorted_token_ids,
                    const Tensor& expert_ids, const Tensor& num_tokens_post_pad, int64_t top_k,
                    int64_t block_size_m, int64_t, int64_t, int64_t bit) {
  const CudaScope scope("moe_wna16_gemm", input);
  Check(vk_cuda_moe_wna16_gemm(
      scope.View("input", input), scope.View("output", output), scope.View("b_qweight", b_qweight),
      scope.View("b_scales", b_scales), scope.View("b_qzeros", b_qzeros),
      scope.View("topk_weights", topk_weights), scope.View("sorted_token_ids", sorted_token_ids),
      scope.View("expert_ids", expert_ids), scope.View("num_tokens_post_pad", num_tokens_post_pad),
      top_k, block_size_m, bit, scope.stream()));
  return output;
}

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, gptq_marlin_repack, vk::binding::GptqMarlinRepack);
VK_IMPL(CUDA, awq_marlin_repack, vk::binding::AwqMarlinRepack);
VK_IMPL(CUDA, marlin_gemm, vk::binding::MarlinGemm);
VK_IMPL(CUDA, moe_wna16_marlin_gemm, vk::binding::MoeMarlinGemm);
VK_IMPL(CUDA, moe_wna16_gemm, vk::binding::MoeWna16Gemm);
VK_IMPL(CUDA, permute_cols, vk::binding::PermuteCols);
VK_IMPL(CUDA, gptq_gemm, vk::binding::GptqGemm);
VK_IMPL(CUDA, gptq_shuffle, vk::binding::GptqShuffle);
VK_IMPL(CUDA, awq_gemm, vk::binding::AwqGemm);
VK_IMPL(CUDA, awq_dequantize, vk::binding::AwqDequantize);
