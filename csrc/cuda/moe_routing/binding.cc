#include "cuda/moe_routing/moe_routing.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "cuda/moe_routing/launch.h"
#include "torch/bind.h"

namespace vk::binding {
namespace {

// A view of a matrix that is given as its transpose.
class Turned {
 public:
  explicit Turned(vk_tensor view, bool transpose = false) : view_(view) {
    if (transpose) {
      std::swap(view_.shape[0], view_.shape[1]);
      std::swap(view_.stride[0], view_.stride[1]);
    }
  }
  operator const vk_tensor*() const { return &view_; }

 private:
  vk_tensor view_;
};

// Indices may be uint32, which the C ABI does not have. Their values are below 2^31, so int32 reads
// and writes the same bytes.
class Ids {
 public:
  Ids(const CudaScope& scope, const char* name, const std::optional<Tensor>& tensor) {
    if (!tensor.has_value()) return;
    view_ = *static_cast<const vk_tensor*>(scope.View(name, *tensor));
    if (tensor->scalar_type() == ScalarType::UInt32) view_.dtype = VK_I32;
    present_ = true;
  }
  operator const vk_tensor*() const { return present_ ? &view_ : nullptr; }

 private:
  vk_tensor view_;
  bool present_ = false;
};

Tensor Workspace(const CudaScope& scope, const Tensor& ids, int64_t experts) {
  // Of another number of experts the op says so itself.
  const int64_t most = std::clamp<int64_t>(experts, 0, cuda::moe_routing::kMaxExperts);
  return scope.NewEmpty("the workspace", ids, {vk_cuda_moe_sort_workspace(ids.numel(), most)},
                        ScalarType::Char);
}

void TopkSoftmax(const Tensor& weights, const Tensor& indices, const Tensor& source_rows,
                 const Tensor& gating_output, bool renormalize, const std::optional<Tensor>& bias) {
  const CudaScope scope("topk_softmax", gating_output);
  Check(vk_cuda_topk_softmax(
      scope.View("topk_weights", weights), Ids(scope, "topk_indices", indices),
      Ids(scope, "token_expert_indices", source_rows), scope.View("gating_output", gating_output),
      renormalize, scope.View("bias", bias), scope.stream()));
}

void TopkSigmoid(const Tensor& weights, const Tensor& indices, const Tensor& source_rows,
                 const Tensor& gating_output, bool renormalize, const std::optional<Tensor>& bias,
                 double factor) {
  const CudaScope scope("topk_sigmoid", gating_output);
  Check(vk_cuda_topk_sigmoid(
      scope.View("topk_weights", weights), Ids(scope, "topk_indices", indices),
      Ids(scope, "token_expert_indices", source_rows), scope.View("gating_output", gating_output),
      renormalize, scope.View("bias", bias), factor, scope.stream()));
}

void TopkSoftplusSqrt(const Tensor& weights, const Tensor& indices, const Tensor& source_rows,
                      const Tensor& gating_output, bool renormalize, double factor,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& input_ids,
                      const std::optional<Tensor>& table) {
  const CudaScope scope("topk_softplus_sqrt", gating_output);
  Check(vk_cuda_topk_softplus_sqrt(
      scope.View("topk_weights", weights), Ids(scope, "topk_indices", indices),
      Ids(scope, "token_expert_indices", source_rows), scope.View("gating_output", gating_output),
      renormalize, factor, scope.View("bias", bias), Ids(scope, "input_ids", input_ids),
      Ids(scope, "tid2eid", table), scope.stream()));
}

std::tuple<Tensor, Tensor> GroupedTopk(const Tensor& scores, int64_t n_group, int64_t topk_group,
                                       int64_t topk, bool renormalize, double factor,
                                       const Tensor& bias, int64_t scoring_func) {
  const char* op = "grouped_topk";
  const CudaScope scope(op, scores);
  CheckDims(op, "scores", scores, 2, "[tokens, experts]");
  if (topk < 0 || topk > scores.size(1)) {
    Refuse(op, "topk",
           " is " + std::to_string(topk) + ", want 0 to " + std::to_string(scores.size(1)) +
               ", the experts of scores");
  }
  const std::array<int64_t, 2> size = {scores.size(0), topk};
  const SizeList sizes(size.data(), size.size());
  const Tensor values = scope.NewEmpty("topk_values", scores, sizes, ScalarType::Float);
  const Tensor indices = scope.NewEmpty("topk_indices", scores, sizes, ScalarType::Int);
  Check(vk_cuda_grouped_topk(scope.View("topk_values", values), scope.View("topk_indices", indices),
                             scope.View("scores", scores), n_group, topk_group, renormalize, factor,
                             scope.View("bias", bias), scoring_func, scope.stream()));
  return {values, indices};
}

void Align(const Tensor& topk_ids, int64_t num_experts, int64_t block_size, const Tensor& sorted,
           const Tensor& experts, const Tensor& total, const std::optional<Tensor>& expert_map,
           const std::optional<Tensor>& scatter_idx) {
  const CudaScope scope("moe_align_block_size", topk_ids);
  const Tensor workspace = Workspace(scope, topk_ids, num_experts);
  Check(vk_cuda_moe_align_block_size(
      Ids(scope, "topk_ids", topk_ids), num_experts, block_size,
      scope.View("sorted_token_ids", sorted), scope.View("experts_ids", experts),
      scope.View("num_tokens_post_pad", total), scope.View("expert_map", expert_map),
      scope.View("scatter_idx", scatter_idx), scope.View("sort_workspace", workspace),
      scope.stream()));
}

void GlobalizeAlign(const Tensor& topk_idx, const Tensor& psum, int64_t rank_expert_offset,
                    int64_t global_num_experts, int64_t local_num_experts, int64_t block_size,
                    const Tensor& sorted, const Tensor& experts, const Tensor& total,
                    const std::optional<Tensor>& scatter_idx) {
  const CudaScope scope("fused_globalize_align_block_size", topk_idx);
  const Tensor workspace = Workspace(scope, topk_idx, local_num_experts);
  Check(vk_cuda_fused_globalize_align_block_size(
      scope.View("topk_idx", topk_idx), scope.View("psum", psum), rank_expert_offset,
      global_num_experts, local_num_experts, block_size, scope.View("sorted_ids", sorted),
      scope.View("expert_ids", experts), scope.View("num_tokens_post_pad", total),
      scope.View("scatter_idx", scatter_idx), scope.View("sort_workspace", workspace),
      scope.stream()));
}

// The engine's other scratch tensors are not needed, as below.
void PrepareScatter(const Tensor& topk_ids, const Tensor& token_expert_indices,
                    const std::optional<Tensor>& expert_map, int64_t n_expert,
                    int64_t n_local_expert, const Tensor& first_rows, const Tensor& scatter_idx,
                    const Tensor& sort_workspace, const Tensor&, const Tensor& sorted_rows,
                    const Tensor&) {
  const CudaScope scope("moe_prepare_scatter", topk_ids);
  Check(vk_cuda_moe_prepare_scatter(
      Ids(scope, "topk_ids", topk_ids), scope.View("token_expert_indices", token_expert_indices),
      scope.View("expert_map", expert_map), n_expert, n_local_expert,
      scope.View("expert_first_token_offset", first_rows), scope.View("scatter_idx", scatter_idx),
      scope.View("sort_workspace", sort_workspace), scope.View("sorted_rows", sorted_rows),
      scope.stream()));
}

void LoraAlign(const Tensor& topk_ids, const Tensor& token_lora_mapping, int64_t num_experts,
               int64_t block_size, int64_t max_loras, int64_t max_num_tokens_padded,
               int64_t max_num_m_blocks, const Tensor& sorted, const Tensor& experts,
               const Tensor& total, const Tensor& adapter_enabled, const Tensor& lora_ids,
               const std::optional<Tensor>& expert_map) {
  const CudaScope scope("moe_lora_align_block_size", topk_ids);
  Check(vk_cuda_moe_lora_align_block_size(
      Ids(scope, "topk_ids", topk_ids), scope.View("token_lora_mapping", token_lora_mapping),
      num_experts, block_size, max_loras, max_num_tokens_padded, max_num_m_blocks,
      scope.View("sorted_token_ids", sorted), scope.View("experts_ids", experts),
      scope.View("num_tokens_post_pad", total), scope.View("adapter_enabled", adapter_enabled),
      scope.View("lora_ids", lora_ids), scope.View("expert_map", expert_map), scope.stream()));
}

void PermuteInto(const Tensor& input, const Tensor& topk_ids, const Tensor& token_expert_indices,
                 const std::optional<Tensor>& expert_map, int64_t n_expert, int64_t n_local_expert,
                 int64_t topk, const Tensor& permuted_input, const Tensor& first_rows,
                 const Tensor& inv_permuted_idx, const Tensor& permuted_idx,
                 const Tensor& workspace) {
  const CudaScope scope("moe_permute", input);
  Check(vk_cuda_moe_permute(scope.View("input", input), Ids(scope, "topk_ids", topk_ids),
                            scope.View("token_expert_indices", token_expert_indices),
                            scope.View("expert_map", expert_map), n_expert, n_local_expert, topk,
                            scope.View("permuted_input", permuted_input),
                            scope.View("expert_first_token_offset", first_rows),
                            scope.View("inv_permuted_idx", inv_permuted_idx),
                            scope.View("permuted_idx", permuted_idx),
                            scope.View("sort_workspace", workspace), scope.stream()));
}

void Permute(const Tensor& input, const Tensor& topk_ids, const Tensor& token_expert_indices,
             const std::optional<Tensor>& expert_map, int64_t n_expert, int64_t n_local_expert,
             int64_t topk, const Tensor& permuted_input, const Tensor& first_rows,
             const Tensor& inv_permuted_idx, const Tensor& permuted_idx) {
  PermuteInto(input, topk_ids, token_expert_indices, expert_map, n_expert, n_local_expert, topk,
              permuted_input, first_rows, inv_permuted_idx, permuted_idx,
              Workspace(CudaScope("moe_permute", input), topk_ids, n_local_expert));
}

// The engine's other scratch tensors are not needed: no ids are copied, and no keys sorted.
void PermuteWithScratch(const Tensor& input, const Tensor& topk_ids,
                        const Tensor& token_expert_indices, const std::optional<Tensor>& expert_map,
                        int64_t n_expert, int64_t n_local_expert, int64_t topk,
                        const Tensor& permuted_input, const Tensor& first_rows,
                        const Tensor& inv_permuted_idx, const Tensor& permuted_idx,
                        const Tensor& sort_workspace, const Tensor&, const Tensor&, const Tensor&) {
  PermuteInto(input, topk_ids, token_expert_indices, expert_map, n_expert, n_local_expert, topk,
              permuted_input, first_rows, inv_permuted_idx, permuted_idx, sort_workspace);
}

void MoeSum(const Tensor& input, const Tensor& output, const std::optional<Tensor>& topk_ids,
            const std::optional<Tensor>& expert_map) {
  const CudaScope scope("moe_sum", input);
  Check(vk_cuda_moe_sum(scope.View("input", input), scope.View("output", output),
                        Ids(scope, "topk_ids", topk_ids), scope.View("expert_map", expert_map),
                        scope.stream()));
}

void MoeMmData(const Tensor& topk_ids, const Tensor& expert_offsets, const Tensor& sizes1,
               const Tensor& sizes2, const Tensor& input_permutation,
               const Tensor& output_permutation, int64_t num_experts, int64_t n, int64_t k,
               const std::optional<Tensor>& blockscale_offsets, bool is_gated) {
  const CudaScope scope("get_cutlass_moe_mm_data", topk_ids);
  const Tensor workspace = Workspace(scope, topk_ids, num_experts);
  Check(vk_cuda_get_cutlass_moe_mm_data(
      Ids(scope, "topk_ids", topk_ids), scope.View("expert_offsets", expert_offsets),
      scope.View("problem_sizes1", sizes1), scope.View("problem_sizes2", sizes2),
      scope.View("input_permutation", input_permutation),
      scope.View("output_permutation", output_permutation), num_experts, n, k,
      scope.View("blockscale_offsets", blockscale_offsets), is_gated,
      scope.View("sort_workspace", workspace), scope.stream()));
}

// mat_b comes as [k, n], a transposed view.
void FusedAGemm(const Tensor& output, const Tensor& a, const Tensor& b) {
  const CudaScope scope("dsv3_fused_a_gemm", a);
  const CudaView view = scope.View("mat_b", b);
  const vk_tensor* matrix = view;
  Check(vk_cuda_small_gemm("dsv3_fused_a_gemm", scope.View("output", output),
                           scope.View("mat_a", a), Turned(*matrix, matrix->ndim == 2),
                           scope.stream()));
}

bool PermuteSupported() { return true; }

}  // namespace
}  // namespace vk::binding

VK_IMPL(CUDA, topk_softmax, vk::binding::TopkSoftmax);
VK_IMPL(CUDA, topk_sigmoid, vk::binding::TopkSigmoid);
VK_IMPL(CUDA, topk_softplus_sqrt, vk::binding::TopkSoftplusSqrt);
VK_IMPL(CUDA, grouped_topk, vk::binding::GroupedTopk);
VK_IMPL(CUDA, moe_align_block_size, vk::binding::Align);
VK_IMPL(CUDA, fused_globalize_align_block_size, vk::binding::GlobalizeAlign);
VK_IMPL(CUDA, moe_prepare_scatter, vk::binding::PrepareScatter);
VK_IMPL(CUDA, moe_lora_align_block_size, vk::binding::LoraAlign);
VK_BIND(CUDA, batched_moe_align_block_size, vk_cuda_batched_moe_align_block_size);
VK_IMPL(CUDA, moe_permute, vk::binding::Permute);
VK_IMPL(CUDA, moe_permute_with_scratch, vk::binding::PermuteWithScratch);
VK_BIND(CUDA, moe_unpermute, vk_cuda_moe_unpermute);
VK_IMPL(CUDA, moe_sum, vk::binding::MoeSum);
VK_BIND(CUDA, shuffle_rows, vk_cuda_shuffle_rows);
VK_IMPL(CUDA, get_cutlass_moe_mm_data, vk::binding::MoeMmData);
VK_BIND(CUDA, get_cutlass_moe_mm_problem_sizes_from_expert_offsets,
        vk_cuda_get_cutlass_moe_mm_sizes);
VK_BIND(CUDA, get_cutlass_batched_moe_mm_data, vk_cuda_get_cutlass_batched_moe_mm_data,
        expert_offsets);
VK_BIND(CUDA, dsv3_router_gemm, vk_cuda_small_gemm);
VK_IMPL(CUDA, dsv3_fused_a_gemm, vk::binding::FusedAGemm);

VK_IMPL(CompositeExplicitAutograd, moe_permute_sort_workspace_size, vk_cuda_moe_sort_workspace);
VK_IMPL(CompositeExplicitAutograd, moe_permute_unpermute_supported, vk::binding::PermuteSupported);
