#include "cuda/sampling/sampling.h"

#include "torch/cuda_stream.h"
#include "torch/registry.h"

namespace vk::binding {
namespace {

void ApplyRepetitionPenalties(const Tensor& logits, const Tensor& prompt_mask,
                              const Tensor& output_mask, const Tensor& penalties) {
  const CudaScope scope("apply_repetition_penalties_", logits);
  Check(vk_cuda_apply_repetition_penalties(
      scope.View("logits", logits), scope.View("prompt_mask", prompt_mask),
      scope.View("output_mask", output_mask), scope.View("repetition_penalties", penalties),
      scope.stream()));
}

void TopKPerRowPrefill(const Tensor& logits, const Tensor& row_starts, const Tensor& row_ends,
                       const Tensor& indices, int64_t rows, int64_t stride0, int64_t stride1,
                       int64_t top_k) {
  const CudaScope scope("top_k_per_row_prefill", logits);
  Check(vk_cuda_top_k_per_row_prefill(
      scope.View("logits", logits), scope.View("rowStarts", row_starts),
      scope.View("rowEnds", row_ends), scope.View("indices", indices), rows, stride0, stride1,
      top_k, scope.stream()));
}

void TopKPerRowDecode(const Tensor& logits, int64_t next_n, const Tensor& seq_lens,
                      const Tensor& indices, int64_t rows, int64_t stride0, int64_t stride1,
                      int64_t top_k) {
  const CudaScope scope("top_k_per_row_decode", logits);
  Check(vk_cuda_top_k_per_row_decode(
      scope.View("logits", logits), next_n, scope.View("seq_lens", seq_lens),
      scope.View("indices", indices), rows, stride0, stride1, top_k, scope.stream()));
}

// The engine chooses between two of its kernels; ours is one, and needs neither workspace nor the
// bound on the lengths.
void OfLengths(const char* op, const Tensor& logits, const Tensor& lengths, const Tensor& output,
               int64_t k) {
  const CudaScope scope(op, logits);
  Check(vk_cuda_top_k_of_lengths(op, scope.View("logits", logits), scope.View("lengths", lengths),
                                 scope.View("output", output), k, scope.stream()));
}

void PersistentTopk(const Tensor& logits, const Tensor& lengths, const Tensor& output,
                    const Tensor&, int64_t k, int64_t) {
  OfLengths("persistent_topk", logits, lengths, output, k);
}

void CooperativeTopk(const Tensor& logits, const Tensor& lengths, const Tensor& output,
                     const Tensor&, int64_t k, int64_t) {
  OfLengths("cooperative_topk", logits, lengths, output, k);
}

}  // namespace
}  // namespace vk::binding

VK_BINDINGS(CUDA, library) {
  library.impl("apply_repetition_penalties_", TORCH_BOX(&vk::binding::ApplyRepetitionPenalties));
  library.impl("top_k_per_row_prefill", TORCH_BOX(&vk::binding::TopKPerRowPrefill));
  library.impl("top_k_per_row_decode", TORCH_BOX(&vk::binding::TopKPerRowDecode));
  library.impl("persistent_topk", TORCH_BOX(&vk::binding::PersistentTopk));
  library.impl("cooperative_topk", TORCH_BOX(&vk::binding::CooperativeTopk));
}
