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

// The inputs of a drafting model that drafts several tokens at once (parallel drafting). Request i
// has the target's tokens from starts[i] to starts[i + 1], the last accepted one at ends[i]; what
// follows is rejected. Its drafting inputs are, from starts[i] + i (slots - shift) on:
//   its accepted tokens, without the first one where `shift`,
//   next[i], the sampled token,
//   slots - 1 times `drafted`, marked in `masked`,
//   as many times `padding` as tokens were rejected, marked in `left_out`, with position 0
// at the positions that follow the one of the request's first token.
//   ids, positions: [>= T], int64; next: [>= B], int64; starts: [>= B + 1], int32; ends: [B], int32
//   out_ids, out_positions: int64, left_out, masked: bool; all [>= T + B (slots - shift)]
//   added: [>= B slots], int32: where the sampled token and the drafted ones lie
//   moved: [>= T], int32, written where `shift`: where the hidden state of each token goes
//   T: the last of starts, at most `tokens`; every request has a token; all of them contiguous
VK_EXPORT vk_status vk_cpu_copy_and_expand_eagle_inputs(
    const vk_tensor* ids, const vk_tensor* positions, const vk_tensor* next,
    const vk_tensor* out_ids, const vk_tensor* out_positions, const vk_tensor* left_out,
    const vk_tensor* masked, const vk_tensor* added, const vk_tensor* moved,
    const vk_tensor* starts, const vk_tensor* ends, int64_t padding, int64_t drafted,
    int64_t tokens, int64_t slots, int32_t shift);

// The same for a model that attends from a sampled token and masked ones to the target's tokens
// (DFlash). Request i queries `queries` tokens: next[i], then `drafted`, at the positions behind
// that of its last accepted token. A position p lies in slot block_table[i, p / block_size] *
// block_size + p % block_size; positions behind the table lie in its last block.
//   next: [>= B], int64; positions: [>= T], int64; starts: [B + 1], int32
//   rejected: [>= B], int64, or null for none: the last tokens of a request that are not accepted,
//     of which the first one always counts as accepted
//   out_ids, query_positions, query_slots: [>= B queries], int64
//   context_positions, context_slots: [>= T], int64
//   sampled: [>= B speculated], int32: where the tokens behind next[i] lie, from i speculated on
//   block_table: [>= B, blocks], int32, last dimension contiguous; the others contiguous
//   T: as above; queries - 1 <= speculated
VK_EXPORT vk_status vk_cpu_copy_and_expand_dflash_inputs(
    const vk_tensor* next, const vk_tensor* positions, const vk_tensor* out_ids,
    const vk_tensor* context_positions, const vk_tensor* query_positions,
    const vk_tensor* context_slots, const vk_tensor* query_slots, const vk_tensor* sampled,
    const vk_tensor* block_table, const vk_tensor* starts, const vk_tensor* rejected,
    int64_t drafted, int64_t block_size, int64_t queries, int64_t speculated, int64_t tokens,
    int32_t has_rejected);

}  // extern "C"
#endif  // VLLM_KERNELS_CPU_SAMPLING_DRAFTING_H_
