// Mixture of experts: which experts a token goes to, the order in which experts take their tokens,
// and moving rows there and back. Tensors are on the current GPU; work is enqueued on `stream` (a
// cudaStream_t), nothing is allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_MOE_ROUTING_MOE_ROUTING_H_
#define VLLM_KERNELS_CUDA_MOE_ROUTING_MOE_ROUTING_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// The topk experts of each token by score + bias, best first, of equal ones the lower expert first
// (Shazeer et al., "Outrageously Large Neural Networks", 2017; the bias: Wang et al.,
// "Auxiliary-Loss-Free Load Balancing", 2024). Scores are float32:
//   softmax over the experts | sigmoid | sqrt(softplus); one that is not finite counts as 0
//   topk_weights: [tokens, topk], float32: the score without bias, times routed_scaling_factor,
//     over the sum of the token's chosen scores if renormalize
//   topk_indices: [tokens, topk], int32 | int64
//   token_expert_indices: [tokens, topk], int32: rank * tokens + token
//   gating_output: [tokens, experts], float32 | bfloat16 | float16, experts contiguous, 1 to 1024
//   bias: [experts], float32, or null
// The first three are contiguous.
VK_EXPORT vk_status vk_cuda_topk_softmax(const vk_tensor* topk_weights,
                                         const vk_tensor* topk_indices,
                                         const vk_tensor* token_expert_indices,
                                         const vk_tensor* gating_output, bool renormalize,
                                         const vk_tensor* bias, void* stream);
VK_EXPORT vk_status vk_cuda_topk_sigmoid(const vk_tensor* topk_weights,
                                         const vk_tensor* topk_indices,
                                         const vk_tensor* token_expert_indices,
                                         const vk_tensor* gating_output, bool renormalize,
                                         const vk_tensor* bias, double routed_scaling_factor,
                                         void* stream);
// With input_ids ([tokens], int32 | int64) and tid2eid ([vocabulary, topk], int32 | int64, values
// in [0, experts)) the experts are those of the token's row in the table instead; both or neither.
// An id without a row has the expert -1, of weight 0.
VK_EXPORT vk_status vk_cuda_topk_softplus_sqrt(const vk_tensor* topk_weights,
                                               const vk_tensor* topk_indices,
                                               const vk_tensor* token_expert_indices,
                                               const vk_tensor* gating_output, bool renormalize,
                                               double routed_scaling_factor, const vk_tensor* bias,
                                               const vk_tensor* input_ids, const vk_tensor* tid2eid,
                                               void* stream);

// The same, from the topk_group best of n_group groups of neighbouring experts (DeepSeek-AI,
// "DeepSeek-V3 Technical Report", 2024). A group's score is the sum of its two best score + bias.
//   topk_values: [tokens, topk], float32; topk_indices: [tokens, topk], int32; both contiguous
//   scores: [tokens, experts], float32 | bfloat16 | float16, experts contiguous
//   bias: [experts], float32 | bfloat16 | float16
//   scoring_func: 0: scores as they are; 1: sigmoid
VK_EXPORT vk_status vk_cuda_grouped_topk(const vk_tensor* topk_values,
                                         const vk_tensor* topk_indices, const vk_tensor* scores,
                                         int64_t n_group, int64_t topk_group, bool renormalize,
                                         double routed_scaling_factor, const vk_tensor* bias,
                                         int64_t scoring_func, void* stream);

// Bytes that the next three need in `workspace` for `entries` = tokens * topk, at least 16.
VK_EXPORT int64_t vk_cuda_moe_sort_workspace(int64_t entries, int64_t experts);

// Entries of topk_ids in the order of their experts, each expert's share padded with `entries`
// (their count) to a multiple of block_size. Within an expert, entries keep their order.
//   topk_ids: [tokens, topk], int32 | int64, contiguous; ids outside of [0, num_experts) are left
//     out
//   sorted_token_ids: [capacity], int32, filled up with `entries`
//   experts_ids: [blocks], int32: the expert of each block, filled up with -1
//   num_tokens_post_pad: [1], int32: entries with their padding
//   expert_map: [num_experts], int32: the expert's local number, or -1: entries left out; or null
//   scatter_idx: as many int32 as topk_ids: the entry, or -1 where it is left out; or null
//   workspace: int8, vk_cuda_moe_sort_workspace(entries, num_experts) bytes
VK_EXPORT vk_status vk_cuda_moe_align_block_size(
    const vk_tensor* topk_ids, int64_t num_experts, int64_t block_size,
    const vk_tensor* sorted_token_ids, const vk_tensor* experts_ids,
    const vk_tensor* num_tokens_post_pad, const vk_tensor* expert_map, const vk_tensor* scatter_idx,
    const vk_tensor* workspace, void* stream);

// The same of what a rank has received, by local numbers of its experts (0 to local_num_experts -
// 1), which become global ones: topk_idx += rank_expert_offset, or -1 for entries of no expert, of
// an expert from global_num_experts on, and of tokens from the received ones on.
//   topk_idx: [tokens, topk], int64, contiguous, read and written
//   psum: [ranks], int32 | int64: its last element is the number of received tokens
//   expert_ids: local numbers
VK_EXPORT vk_status vk_cuda_fused_globalize_align_block_size(
    const vk_tensor* topk_idx, const vk_tensor* psum, int64_t rank_expert_offset,
    int64_t global_num_experts, int64_t local_num_experts, int64_t block_size,
    const vk_tensor* sorted_ids, const vk_tensor* expert_ids, const vk_tensor* num_tokens_post_pad,
    const vk_tensor* scatter_idx, const vk_tensor* workspace, void* stream);

// The same for each adapter of lora_ids, of the tokens that are the adapter's alone. Rows of
// adapters that are not in lora_ids, or not enabled, stay as they are.
//   token_lora_mapping: [tokens], int32; adapter_enabled: [at least max_loras], int32
//   lora_ids: [max_loras + 1], int32; -1 and max_loras or more are passed over
//   sorted_token_ids: [max_loras * max_num_tokens_padded], int32
//   experts_ids: [max_loras * max_num_m_blocks], int32; num_tokens_post_pad: [max_loras], int32
VK_EXPORT vk_status vk_cuda_moe_lora_align_block_size(
    const vk_tensor* topk_ids, const vk_tensor* token_lora_mapping, int64_t num_experts,
    int64_t block_size, int64_t max_loras, int64_t max_num_tokens_padded, int64_t max_num_m_blocks,
    const vk_tensor* sorted_token_ids, const vk_tensor* experts_ids,
    const vk_tensor* num_tokens_post_pad, const vk_tensor* adapter_enabled,
    const vk_tensor* lora_ids, const vk_tensor* expert_map, void* stream);

// The same where tokens lie by expert already: expert e's are rows e * max_tokens_per_batch on.
//   expert_num_tokens: [experts], int32, at most 1024 experts; taken as 0 to max_tokens_per_batch
//   sorted_token_ids: [experts * max_tokens_per_batch rounded up to block_size], filled up with
//     experts * max_tokens_per_batch; experts_ids: one for each block_size of them
VK_EXPORT vk_status vk_cuda_batched_moe_align_block_size(
    int64_t max_tokens_per_batch, int64_t block_size, const vk_tensor* expert_num_tokens,
    const vk_tensor* sorted_token_ids, const vk_tensor* experts_ids,
    const vk_tensor* num_tokens_post_pad, void* stream);

// A copy of each token's row for each of its experts, in the order of the experts; entries keep
// their order within one. Entries of experts that are not local come last and are not copied.
//   input: [tokens, hidden], any dtype; permuted_input: [tokens * topk, hidden], input's dtype
//   topk_ids, token_expert_indices: [tokens, topk], int32; the second numbers the entries, 0 to
//     tokens * topk - 1
//   expert_map: [n_expert], int32: local number or -1; or null: all are local
//   expert_first_token_offset: [n_local_expert + 1], int64: first row of each expert, and their end
//   inv_permuted_idx: [tokens, topk], int32: row of each entry
//   permuted_idx: [tokens * topk], int32: entry of each row; not written past the end
VK_EXPORT vk_status vk_cuda_moe_permute(
    const vk_tensor* input, const vk_tensor* topk_ids, const vk_tensor* token_expert_indices,
    const vk_tensor* expert_map, int64_t n_expert, int64_t n_local_expert, int64_t topk,
    const vk_tensor* permuted_input, const vk_tensor* expert_first_token_offset,
    const vk_tensor* inv_permuted_idx, const vk_tensor* permuted_idx, const vk_tensor* workspace,
    void* stream);

// The order of vk_cuda_moe_permute without the rows themselves: scatter_idx is its inv_permuted_idx
// and sorted_rows its permuted_idx.
VK_EXPORT vk_status vk_cuda_moe_prepare_scatter(
    const vk_tensor* topk_ids, const vk_tensor* token_expert_indices, const vk_tensor* expert_map,
    int64_t n_expert, int64_t n_local_expert, const vk_tensor* expert_first_token_offset,
    const vk_tensor* scatter_idx, const vk_tensor* sort_workspace, const vk_tensor* sorted_rows,
    void* stream);

// Where each expert's rows of the grouped products are, and the sizes of the products: the first of
// a token's k values to 2 n columns (n unless is_gated), the second of n values to k columns.
//   topk_ids: [tokens, topk], int32 | int64, contiguous; entries outside of [0, num_experts) have
//     no row
//   expert_offsets: [num_experts + 1], int32: first row of each expert, and their end
//   problem_sizes1, problem_sizes2: [num_experts, 3], int32: rows, columns, depth of each expert;
//   or
//     columns, rows, depth where there are at most 64 entries and no blockscale_offsets
//   input_permutation: [tokens * topk], int32: token of each row; not written past the end
//   output_permutation: [tokens * topk], int32: row of each entry, or the end for those without
//   blockscale_offsets: [num_experts + 1], int32, or null: offsets of the rows rounded up to 128
//   workspace: as above, vk_cuda_moe_sort_workspace(entries, num_experts) bytes
VK_EXPORT vk_status vk_cuda_get_cutlass_moe_mm_data(
    const vk_tensor* topk_ids, const vk_tensor* expert_offsets, const vk_tensor* problem_sizes1,
    const vk_tensor* problem_sizes2, const vk_tensor* input_permutation,
    const vk_tensor* output_permutation, int64_t num_experts, int64_t n, int64_t k,
    const vk_tensor* blockscale_offsets, bool is_gated, const vk_tensor* workspace, void* stream);

// The same sizes (gated) of experts whose first rows are known: [experts + 1], int64.
VK_EXPORT vk_status vk_cuda_get_cutlass_moe_mm_sizes(const vk_tensor* expert_first_token_offset,
                                                     const vk_tensor* problem_sizes1,
                                                     const vk_tensor* problem_sizes2, int64_t n,
                                                     int64_t k, bool swap_ab, void* stream);

// The same of experts with padded_m rows each, of which expert_num_tokens ([num_local_experts],
// int32) are in use. expert_offsets: [num_local_experts], int32. Columns come first where there are
// at most 64 rows.
VK_EXPORT vk_status vk_cuda_get_cutlass_batched_moe_mm_data(
    const vk_tensor* expert_offsets, const vk_tensor* problem_sizes1,
    const vk_tensor* problem_sizes2, const vk_tensor* expert_num_tokens, int64_t num_local_experts,
    int64_t padded_m, int64_t n, int64_t k, void* stream);

// hidden_states[t] = sum over k of topk_weights[t, k] * permuted[inv_permuted_idx[t, k]], in
// float32; rows from expert_first_token_offset's last element on (where given) count as 0, and so
// do numbers that are no row.
//   permuted: [rows, hidden], float32 | bfloat16 | float16; hidden_states: [tokens, hidden]
//   topk_weights: [tokens, topk], float32; inv_permuted_idx: tokens * topk, int32
VK_EXPORT vk_status vk_cuda_moe_unpermute(const vk_tensor* permuted, const vk_tensor* topk_weights,
                                          const vk_tensor* inv_permuted_idx,
                                          const vk_tensor* expert_first_token_offset, int64_t topk,
                                          const vk_tensor* hidden_states, void* stream);

// output[t] = sum over k of input[t, k], in float32.
//   input: [tokens, topk, hidden], float32 | bfloat16 | float16, any strides
//   output: [tokens, hidden], input's dtype, contiguous
//   topk_ids: [tokens, topk], int32 | int64, any strides, or null: entries with an id below 0, or
//     whose expert_map ([experts], int32, or null) is, count as 0 and are not read
VK_EXPORT vk_status vk_cuda_moe_sum(const vk_tensor* input, const vk_tensor* output,
                                    const vk_tensor* topk_ids, const vk_tensor* expert_map,
                                    void* stream);

// output[i] = input[dst2src_map[i]]: rows of any dtype, [rows, columns]; dst2src_map: int32, rows
// for which it names none are left
VK_EXPORT vk_status vk_cuda_shuffle_rows(const vk_tensor* input, const vk_tensor* dst2src_map,
                                         const vk_tensor* output, void* stream);

// output = a b^T for up to 16 rows of a, bfloat16 with float32 sums; compute capability 8.0 on.
//   output: [tokens, n], float32 | bfloat16; a: [tokens, k]; b: [n, k]; k a multiple of 32, last
//     dimensions contiguous, rows of a and b aligned to 16 bytes
VK_EXPORT vk_status vk_cuda_small_gemm(const char* op, const vk_tensor* output, const vk_tensor* a,
                                       const vk_tensor* b, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_MOE_ROUTING_MOE_ROUTING_H_
