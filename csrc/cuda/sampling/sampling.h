// What comes between tokens and the model's rows: embeddings, and the choice of a token or of a
// row's columns by logits. Tensors are on the current GPU; work is enqueued on `stream` (a
// cudaStream_t), nothing is allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_SAMPLING_SAMPLING_H_
#define VLLM_KERNELS_CUDA_SAMPLING_SAMPLING_H_

#include "core/abi.h"

extern "C" {

// Where prompt_mask or output_mask is set: logits / penalty if the logit is above 0, else
// logits * penalty, in place (Keskar et al., "CTRL", 2019).
//   logits: [sequences, vocabulary], float32 | bfloat16 | float16
//   prompt_mask, output_mask: the same shape, bool; repetition_penalties: [sequences], logits'
//   dtype
// Last dimensions are contiguous.
VK_EXPORT vk_status vk_cuda_apply_repetition_penalties(const vk_tensor* logits,
                                                       const vk_tensor* prompt_mask,
                                                       const vk_tensor* output_mask,
                                                       const vk_tensor* repetition_penalties,
                                                       void* stream);

// Columns of the top_k largest logits of each row's range, in ascending order, counted from the
// range's start, then -1; of equal logits the first ones; NaN counts as the smallest. By radix
// selection (Alabi et al., "Fast k-Selection Algorithms for Graphics Processing Units", 2012).
//   logits: [rows, columns], float32, any strides
//   indices: [at least rows, top_k], int32, contiguous
//   row_starts, row_ends: [at least rows], int32: ranges
VK_EXPORT vk_status vk_cuda_top_k_per_row_prefill(const vk_tensor* logits,
                                                  const vk_tensor* row_starts,
                                                  const vk_tensor* row_ends,
                                                  const vk_tensor* indices, int64_t rows,
                                                  int64_t row_stride, int64_t column_stride,
                                                  int64_t top_k, void* stream);

// The same for ranges that start at 0.
//   seq_lens: int32, [sequences]: row r ends at seq_lens[r / next_n] - next_n + r % next_n + 1;
//     or [sequences, next_n]: row r ends at its r-th element
VK_EXPORT vk_status vk_cuda_top_k_per_row_decode(const vk_tensor* logits, int64_t next_n,
                                                 const vk_tensor* seq_lens,
                                                 const vk_tensor* indices, int64_t rows,
                                                 int64_t row_stride, int64_t column_stride,
                                                 int64_t top_k, void* stream);

// The same for ranges of [0, lengths[r]); `op` is named in errors.
//   lengths: int32, rows elements; output: [rows, k], int32, contiguous
VK_EXPORT vk_status vk_cuda_top_k_of_lengths(const char* op, const vk_tensor* logits,
                                             const vk_tensor* lengths, const vk_tensor* output,
                                             int64_t k, void* stream);

// Rows of one rank's part of an embedding; tokens of other ranks get zeros. The part holds the
// tokens [start, end), then `padding` rows, then the added tokens [added_start, added_end).
//   out: [tokens, width], contiguous; input_ids: [tokens], int32 | int64
//   weight: [rows, width], out's dtype, any; last dimension contiguous
VK_EXPORT vk_status vk_cuda_vocab_parallel_embedding(
    const vk_tensor* out, const vk_tensor* input_ids, const vk_tensor* weight, int64_t start,
    int64_t end, int64_t padding, int64_t added_start, int64_t added_end, void* stream);

// Numbers of the n-grams that end at each token (the LongCat models' n-gram embeddings): of
// embedder e = (i, j), i + 2 tokens long, with p the token's place in its request's row,
//   n_gram_ids[t, e] = exclusive_ne_embedder_size_sums[e] +
//     sum over b <= i + 1 of (row[p - b] * ne_weights[i, j, b] mod m) mod m,  m = ne_mods[i, j]
// The sum ends before the first negative token, and where the row begins.
//   ne_weights: [ne_n - 1, ne_k, ne_n];  ne_mods: [ne_n - 1, ne_k]
//   n_gram_ids: [tokens, (ne_n - 1) ne_k]
//   exclusive_req_len_sums: [requests + 1], where the tokens of each request begin
//   ne_token_table: [rows, width], last dimension contiguous;  column_starts: [requests]
//   row_indices: int64 [requests]; others are int32 and contiguous
VK_EXPORT vk_status vk_cuda_ngram_compute_n_gram_ids(
    int64_t ne_n, int64_t ne_k, const vk_tensor* ne_weights, const vk_tensor* ne_mods,
    const vk_tensor* exclusive_ne_embedder_size_sums, const vk_tensor* exclusive_req_len_sums,
    const vk_tensor* ne_token_table, const vk_tensor* row_indices, const vk_tensor* column_starts,
    const vk_tensor* n_gram_ids, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_SAMPLING_SAMPLING_H_
