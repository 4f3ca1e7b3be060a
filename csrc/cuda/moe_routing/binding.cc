#include "cuda/moe_routing/moe_routing.h"

#include <torch/csrc/stable/ops.h>

#include <array>
#include <tuple>
#include <utility>

#include "torch/cuda_stream.h"
#include "torch/registry.h"

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

Tensor Bytes(const Tensor& like, int64_t count) {
  const std::array<int64_t, 1> size = {count};
  return torch::stable::new_empty(like, {size.data(), size.size()}, ScalarType::Char);
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
  const CudaScope scope("grouped_topk", scores);
  if (scores.dim() != 2 || topk < 0) {
    throw std::runtime_error("grouped_topk: want scores of 2 dimensions and topk of at least 0");
  }
  const std::array<int64_t, 2> size = {scores.size(0), topk};
  const Tensor values =
      torch::stable::new_empty(scores, {size.data(), size.size()}, ScalarType::Float);
  const Tensor indices =
      torch::stable::new_empty(scores, {size.data(), size.size()}, ScalarType::Int);
  Check(vk_cuda_grouped_topk(scope.View("topk_values", values), scope.View("topk_indices", indices),
                             scope.View("scores", scores), n_group, topk_group, renormalize, factor,
                             scope.View("bias", bias), scoring_func, scope.stream()));
  return {values, indices};
}

void Align(const Tensor& topk_ids, int64_t num_experts, int64_t block_size, const Tensor& sorted,
           const Tensor& experts, const Tensor& total, const std::optional<Tensor>& expert_map) {
  const CudaScope scope("moe_align_block_size", topk_ids);
  const Tensor workspace =
      Bytes(topk_ids, vk_cuda_moe_sort_workspace(topk_ids.numel(), num_experts));
  Check(vk_cuda_moe_align_block_size(
      Ids(scope, "topk_ids", topk_ids), num_experts, block_size,
      scope.View("sorted_token_ids", sorted), scope.View("experts_ids", experts),
      scope.View("num_tokens_post_pad", total), scope.View("expert_map", expert_map),
      scope.View("sort_workspace", workspace), scope.stream()));
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

void BatchedAlign(int64_t max_tokens, int64_t block_size, const Tensor& counts,
                  const Tensor& sorted, const Tensor& experts, const Tensor& total) {
  const CudaScope scope("batched_moe_align_block_size", counts);
  Check(vk_cuda_batched_moe_align_block_size(
      max_tokens, block_size, scope.View("expert_num_tokens", counts),
      scope.View("sorted_token_ids", sorted), scope.View("experts_ids", experts),
      scope.View("num_tokens_post_pad", total), scope.stream()));
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
              Bytes(topk_ids, vk_cuda_moe_sort_workspace(topk_ids.numel(), n_local_expert)));
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

void Unpermute(const Tensor& permuted, const Tensor& topk_weights, const Tensor& inv_permuted_idx,
               const std::optional<Tensor>& first_rows, int64_t topk, const Tensor& hidden_states) {
  const CudaScope scope("moe_unpermute", permuted);
  Check(vk_cuda_moe_unpermute(scope.View("permuted_hidden_states", permuted),
                              scope.View("topk_weights", topk_weights),
                              scope.View("inv_permuted_idx", inv_permuted_idx),
                              scope.View("expert_first_token_offset", first_rows), topk,
                              scope.View("hidden_states", hidden_states), scope.stream()));
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
  const Tensor workspace =
      Bytes(topk_ids, vk_cuda_moe_sort_workspace(topk_ids.numel(), num_experts));
  Check(vk_cuda_get_cutlass_moe_mm_data(
      Ids(scope, "topk_ids", topk_ids), scope.View("expert_offsets", expert_offsets),
      scope.View("problem_sizes1", sizes1), scope.View("problem_sizes2", sizes2),
      scope.View("input_permutation", input_permutation),
      scope.View("output_permutation", output_permutation), num_experts, n, k,
      scope.View("blockscale_offsets", blockscale_offsets), is_gated,
      scope.View("sort_workspace", workspace), scope.stream()));
}

void MoeMmSizes(const Tensor& first_rows, const Tensor& sizes1, const Tensor& sizes2, int64_t n,
                int64_t k, bool swap_ab) {
  const CudaScope scope("get_cutlass_moe_mm_problem_sizes_from_expert_offsets", first_rows);
  Check(vk_cuda_get_cutlass_moe_mm_sizes(
      scope.View("expert_first_token_offset", first_rows), scope.View("problem_sizes1", sizes1),
      scope.View("problem_sizes2", sizes2), n, k, swap_ab, scope.stream()));
}

void BatchedMoeMmData(const Tensor& expert_offsets, const Tensor& sizes1, const Tensor& sizes2,
                      const Tensor& counts, int64_t num_local_experts, int64_t padded_m, int64_t n,
                      int64_t k) {
  const CudaScope scope("get_cutlass_batched_moe_mm_data", expert_offsets);
  Check(vk_cuda_get_cutlass_batched_moe_mm_data(
      scope.View("expert_offsets", expert_offsets), scope.View("problem_sizes1", sizes1),
      scope.View("problem_sizes2", sizes2), scope.View("expert_num_tokens", counts),
      num_local_experts, padded_m, n, k, scope.stream()));
}

void ShuffleRows(const Tensor& input, const Tensor& dst2src_map, const Tensor& output) {
  const CudaScope scope("shuffle_rows", input);
  Check(vk_cuda_shuffle_rows(scope.View("input_tensor", input),
                             scope.View("dst2src_map", dst2src_map),
                             scope.View("output_tensor", output), scope.stream()));
}

void RouterGemm(const Tensor& output, const Tensor& a, const Tensor& b) {
  const CudaScope scope("dsv3_router_gemm", a);
  Check(vk_cuda_small_gemm("dsv3_router_gemm", scope.View("output", output), scope.View("mat_a", a),
                           scope.View("mat_b", b), scope.stream()));
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

int64_t SortWorkspaceSize(int64_t rows, int64_t experts) {
  return vk_cuda_moe_sort_workspace(rows, experts);
}

bool PermuteSupported() { return true; }

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) {
  library.impl("topk_softmax", TORCH_BOX(&vk::binding::TopkSoftmax));
  library.impl("topk_sigmoid", TORCH_BOX(&vk::binding::TopkSigmoid));
  library.impl("topk_softplus_sqrt", TORCH_BOX(&vk::binding::TopkSoftplusSqrt));
  library.impl("grouped_topk", TORCH_BOX(&vk::binding::GroupedTopk));
  library.impl("moe_align_block_size", TORCH_BOX(&vk::binding::Align));
  library.impl("moe_lora_align_block_size", TORCH_BOX(&vk::binding::LoraAlign));
  library.impl("batched_moe_align_block_size", TORCH_BOX(&vk::binding::BatchedAlign));
  library.impl("moe_permute", TORCH_BOX(&vk::binding::Permute));
  library.impl("moe_permute_with_scratch", TORCH_BOX(&vk::binding::PermuteWithScratch));
  library.impl("moe_unpermute", TORCH_BOX(&vk::binding::Unpermute));
  library.impl("moe_sum", TORCH_BOX(&vk::binding::MoeSum));
  library.impl("shuffle_rows", TORCH_BOX(&vk::binding::ShuffleRows));
  library.impl("get_cutlass_moe_mm_data", TORCH_BOX(&vk::binding::MoeMmData));
  library.impl("get_cutlass_moe_mm_problem_sizes_from_expert_offsets",
               TORCH_BOX(&vk::binding::MoeMmSizes));
  library.impl("get_cutlass_batched_moe_mm_data", TORCH_BOX(&vk::binding::BatchedMoeMmData));
  library.impl("dsv3_router_gemm", TORCH_BOX(&vk::binding::RouterGemm));
  library.impl("dsv3_fused_a_gemm", TORCH_BOX(&vk::binding::FusedAGemm));
}

VK_BINDINGS(CompositeExplicitAutograd, library) {
  library.impl("moe_permute_sort_workspace_size", TORCH_BOX(&vk::binding::SortWorkspaceSize));
  library.impl("moe_permute_unpermute_supported", TORCH_BOX(&vk::binding::PermuteSupported));
}
