// The experts of each token and their weights.
#ifndef VLLM_KERNELS_CPU_MOE_ROUTING_MOE_ROUTING_H_
#define VLLM_KERNELS_CPU_MOE_ROUTING_MOE_ROUTING_H_

#include <cstddef>
#include <cstdint>

#include "core/abi.h"

extern "C" {

// The scores of a token are s = sigmoid(logits) or sqrt(log(1 + e^logits)), in float32; those that
// are not finite count as 0. Its experts are the `topk` of largest s + correction_bias, best first;
// of equal ones the lower, NaN last. Their weights are s, without the bias ("Auxiliary-Loss-Free
// Load Balancing Strategy for Mixture-of-Experts", Wang et al. 2024); with `renormalize` divided by
// their sum, if that is above 0, and times `factor`.
//   weights: float32 [tokens, topk], ids: int32 [tokens, topk]; contiguous, written
//   logits: float32 | bfloat16 | float16 [tokens, experts], last dimension contiguous
//   correction_bias: float32 | bfloat16 | float16 [experts], contiguous
//   scoring: "sigmoid" or "sqrtsoftplus"; others are VK_UNSUPPORTED
VK_EXPORT vk_status vk_cpu_biased_topk(const vk_tensor* weights, const vk_tensor* ids,
                                       const vk_tensor* logits, const vk_tensor* correction_bias,
                                       const char* scoring, int32_t renormalize, double factor);

// The same weights of the experts that `experts` names, each 0 to the number of experts - 1; `ids`
// is a copy of it. With "softmax" the weights stay as they are, without the factor; the others are
// renormalised.
//   experts: int32 [tokens, topk], last dimension contiguous
VK_EXPORT vk_status vk_cpu_hash_topk(const vk_tensor* weights, const vk_tensor* ids,
                                     const vk_tensor* logits, const vk_tensor* experts,
                                     const char* scoring, double factor);

}  // extern "C"

namespace vk {

enum MoeScoring { kMoeSigmoid, kMoeSqrtSoftplus, kMoeSoftmax, kMoeScorings };

// The last index is vk_dtype (float32, bfloat16, float16); count > 0.
struct MoeRoutingTable {
  // scores[i] of logits[i]; 0 where that is not finite.
  void (*score[kMoeScorings][3])(float* scores, const void* logits, size_t count);
  // ranks[i] = scores[i] + bias[i]; -infinity where that is NaN.
  void (*rank[3])(float* ranks, const float* scores, const void* bias, size_t count);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_MOE_ROUTING_MOE_ROUTING_H_
