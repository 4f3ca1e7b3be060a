// Selective state spaces (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State
// Spaces", 2023): the scan over prompts. Tensors are on the current GPU; work is enqueued on
// `stream` (a cudaStream_t), nothing is allocated or waited for.
#ifndef VLLM_KERNELS_CUDA_SELECTIVE_SCAN_SELECTIVE_SCAN_H_
#define VLLM_KERNELS_CUDA_SELECTIVE_SCAN_SELECTIVE_SCAN_H_

#include <stdbool.h>

#include "core/abi.h"

extern "C" {

// For each sequence and row d, with its state S of `dstate` numbers and step = delta[d, t] +
// delta_bias[d], or the softplus of that, in float32 and token by token:
//   S = exp(step A[d]) S + step u[d, t] B[g, :, t];  y = S . C[g, :, t] + D[d] u[d, t]
// where g = d / (rows / groups). delta[d, t] becomes y, and z[d, t], if there is one, y silu(z).
//   u, delta, z: T [rows, tokens] with query_start_loc, else [sequences, rows, tokens]; last
//     dimension contiguous; T is float32, bfloat16 or float16
//   A: float32 [rows, dstate], dstate at most 256; D, delta_bias: float32 [rows] or null
//   B, C: T [groups, dstate, tokens], or [sequences, groups, dstate, tokens]; last dim contiguous
//   query_start_loc: int32 [sequences + 1], contiguous, or null
//   ssm_states: T or float32 [slots, rows, dstate], last dimension contiguous, in place
//   cache_indices: int32, the slot of each sequence; null: its own number. A sequence of slot
//     null_block_id is skipped, and so is one of a slot that is not there. Sequences run at once: a
//     slot that one writes may be no other's, which is trusted, not checked
//   has_initial_state: bool [sequences]: whether it begins with its slot's state, else with zeros;
//     null: zeros
// Without block_idx_first, cache_indices is [sequences] and the last state goes to that slot.
// With it, states are kept of blocks of block_size tokens, and cache_indices is [sequences,
// columns]: the first state is that of column initial_state_idx[s]; the state behind each chunk of
// tokens goes to the column of the block that the chunk completes, the last one to column
// block_idx_last[s]. All of these are int32 [sequences].
//   cu_chunk_seqlen: int32 [chunks + 1], running number of tokens; last_chunk: int32 [sequences],
//     the last chunk of each; without them chunks are blocks from the sequence's start on
// Numbers in these are not checked on the host; what would lie outside of a tensor is left alone.
VK_EXPORT vk_status vk_cuda_selective_scan_fwd(
    const vk_tensor* u, const vk_tensor* delta, const vk_tensor* A, const vk_tensor* B,
    const vk_tensor* C, const vk_tensor* D, const vk_tensor* z, const vk_tensor* delta_bias,
    bool delta_softplus, const vk_tensor* query_start_loc, const vk_tensor* cache_indices,
    const vk_tensor* has_initial_state, const vk_tensor* ssm_states, int64_t null_block_id,
    int64_t block_size, const vk_tensor* block_idx_first, const vk_tensor* block_idx_last,
    const vk_tensor* initial_state_idx, const vk_tensor* cu_chunk_seqlen,
    const vk_tensor* last_chunk, void* stream);

}  // extern "C"
#endif  // VLLM_KERNELS_CUDA_SELECTIVE_SCAN_SELECTIVE_SCAN_H_
