// What a drafting model is given in speculative decoding (EAGLE, Li et al. 2024). A batch has B
// requests.
#ifndef VLLM_KERNELS_CPU_SAMPLING_DRAFTING_H_
#define VLLM_KERNELS_CPU_SAMPLING_DRAFTING_H_

#include "core/abi.h"

extern "C" {

// The token that each request is sampled at: its last one that was not rejected.
//   draft_ends: [B], int64: running number of drafted tokens
//   valid_counts: [B], int64: tokens that were accepted, the sampled one with them
//   starts: [>= B + 1], int32: first token of each request
//   indices: [>= B], int32, rejected: [>= B], int64: written; all of them contiguous
VK_EXPORT vk_status vk_cpu_eagle_prepare_inputs(const vk_tensor* draft_ends,
                                                const vk_tensor* valid_counts,
                                                const vk_tensor* starts, const vk_tensor* indices,
                                                const vk_tensor* rejected, int64_t requests);

// The last valid token of each row and their number; -1 and what lies beyond the vocabulary is
// none. Without one, and where the request is discarded, the backup token.
//   sampled: [>= B, >= columns], int64, last dimension contiguous
//   discard: [>= B], bool; backup, next, counts: [>= B], int64; contiguous
VK_EXPORT vk_status vk_cpu_eagle_prepare_next_token(const vk_tensor* sampled,
                                                    const vk_tensor* discard,
                                                    const vk_tensor* backup, const vk_tensor* next,
                                                    const vk_tensor* counts, int64_t vocab_size,
                                                    int64_t columns, int64_t requests);

// The next position of each request, its slot in the cache, and its length, which grows by one. A
// request beyond max_model_len gets position 0, the padding slot and length 1.
//   positions: [B], int64; block_table: [>= B, blocks], int32, last dimension contiguous
//   seq_lens: [>= B], int32, in place; clamped: [>= B], int64
//   slots: [S >= B], int64: padding behind the requests; contiguous
VK_EXPORT vk_status vk_cpu_eagle_step_slot_mapping(const vk_tensor* positions,
                                                   const vk_tensor* block_table,
                                                   const vk_tensor* seq_lens,
                                                   const vk_tensor* clamped, const vk_tensor* slots,
                                                   int64_t block_size, int64_t max_model_len,
                                                   int64_t pad);

}  // extern "C"
#endif  // VLLM_KERNELS_CPU_SAMPLING_DRAFTING_H_
