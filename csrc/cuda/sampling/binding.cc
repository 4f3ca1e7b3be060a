#include "cuda/sampling/sampling.h"

#include "torch/bind.h"

namespace vk::binding {
namespace {

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

VK_BIND(CUDA, apply_repetition_penalties_, vk_cuda_apply_repetition_penalties, logits);
VK_BIND(CUDA, vocab_parallel_embedding, vk_cuda_vocab_parallel_embedding);
VK_BIND(CUDA, top_k_per_row_prefill, vk_cuda_top_k_per_row_prefill);
VK_BIND(CUDA, top_k_per_row_decode, vk_cuda_top_k_per_row_decode);
VK_IMPL(CUDA, persistent_topk, vk::binding::PersistentTopk);
VK_IMPL(CUDA, cooperative_topk, vk::binding::CooperativeTopk);
VK_BIND(CUDA, ngram_compute_n_gram_ids, vk_cuda_ngram_compute_n_gram_ids);
