// From logits to tokens: greedy and random choice, and the acceptance of drafted tokens
// (speculative decoding).
#ifndef VLLM_KERNELS_CPU_SAMPLING_SAMPLING_H_
#define VLLM_KERNELS_CPU_SAMPLING_SAMPLING_H_

#include <cstddef>

#include "core/abi.h"

extern "C" {

// The place of each row's largest value, the first of equal ones; a NaN counts as the largest.
//   tokens: [rows], int64, contiguous
//   logits: [rows, vocabulary], float32, last dimension contiguous, vocabulary > 0
VK_EXPORT vk_status vk_cpu_greedy_argmax(const vk_tensor* tokens, const vk_tensor* logits);

// A token drawn from softmax(logits): argmax of logits plus Gumbel noise (Gumbel 1954). The noise
// is a function of the row's seed and the token alone. Tokens of -inf and NaN are never drawn; a
// row without others gives 0.
//   tokens, logits: as above
//   seeds: [rows], int64, contiguous
VK_EXPORT vk_status vk_cpu_fused_gumbel_argmax(const vk_tensor* tokens, const vk_tensor* logits,
                                               const vk_tensor* seeds);

// Below, a batch has B requests with T drafted tokens in all; request b has those from
// ends[b - 1] (0 for the first) to ends[b].
//   ends: [B], int64, contiguous, ascending, up to T

// output[i] = input[b] for every i of request b, `replace_from` replaced by `replace_to`.
//   output: [T], input: [B], int64, contiguous
VK_EXPORT vk_status vk_cpu_expand(const vk_tensor* output, const vk_tensor* input,
                                  const vk_tensor* ends, int64_t replace_from, int64_t replace_to);

// Accepts drafted tokens as long as they are the target's choice; the first that is not is replaced
// by it, and what follows stays as it is. After a whole draft comes the bonus token.
//   output: [B, >= longest draft + 1], int64, last dimension contiguous
//   draft, target: [T], int64, contiguous
//   bonus: [B] or [B, 1], int64
//   is_greedy: [B], bool, contiguous, or null: requests where it is false are left out
VK_EXPORT vk_status vk_cpu_rejection_greedy_sample(const vk_tensor* output, const vk_tensor* ends,
                                                   const vk_tensor* draft, const vk_tensor* target,
                                                   const vk_tensor* bonus,
                                                   const vk_tensor* is_greedy,
                                                   int64_t max_spec_len);

// Accepts a drafted token with probability target / draft (Leviathan et al. 2023); the first that
// is rejected is replaced by `recovered`.
//   draft_probs: [T, >= vocab_size], float32, last dimension contiguous; not read, and taken for
//     1, with `no_draft_probs`
//   target_probs: as draft_probs
//   recovered: [T], int64; uniform: [T], float32; contiguous
//   is_greedy: as above, but requests where it is true are left out
VK_EXPORT vk_status vk_cpu_rejection_random_sample(
    const vk_tensor* output, const vk_tensor* ends, const vk_tensor* draft,
    const vk_tensor* draft_probs, const vk_tensor* target_probs, const vk_tensor* bonus,
    const vk_tensor* recovered, const vk_tensor* uniform, const vk_tensor* is_greedy,
    int64_t max_spec_len, int64_t vocab_size, bool no_draft_probs);

// A token drawn from max(target - draft, 0), for each drafted token in case it is rejected: the
// largest product with inv_q, whose elements are reciprocals of exponential random numbers. With
// `no_draft_probs` from the target without the drafted token.
//   output: [T], int64, contiguous
//   inv_q: [B, >= vocab_size], float32, last dimension contiguous
VK_EXPORT vk_status vk_cpu_sample_recovered_tokens(const vk_tensor* output, const vk_tensor* ends,
                                                   const vk_tensor* draft,
                                                   const vk_tensor* draft_probs,
                                                   const vk_tensor* target_probs,
                                                   const vk_tensor* inv_q, int64_t vocab_size,
                                                   bool no_draft_probs);

}  // extern "C"

namespace vk {

// The largest value and its place, the first of equal ones.
struct Largest {
  float value;
  size_t place;
};

struct SamplingTable {
  // Of count > 0 values; a NaN counts as the largest.
  Largest (*largest)(const float* values, size_t count);
  // Of max(target - draft, 0) * factor, where draft may be null, for none. NaN counts for nothing:
  // where there is nothing else the value is -1.
  Largest (*largest_rest)(const float* target, const float* draft, const float* factor,
                          size_t count);
};

}  // namespace vk
#endif  // VLLM_KERNELS_CPU_SAMPLING_SAMPLING_H_
