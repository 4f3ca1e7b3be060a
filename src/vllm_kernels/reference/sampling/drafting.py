"""References of what a drafting model is given (EAGLE, Li et al. 2024)."""

from __future__ import annotations

import torch


def eagle_prepare_inputs_padded_kernel_impl(
    cu_num_draft_tokens: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    query_start_loc_gpu: torch.Tensor,
    token_indices_to_sample: torch.Tensor,
    num_rejected_tokens_gpu: torch.Tensor,
    num_reqs: int,
) -> None:
    """The token that each request is sampled at: its last one that was not rejected.

    Args:
        cu_num_draft_tokens: [requests], int64: running number of drafted tokens.
        valid_sampled_tokens_count: [requests], int64: accepted ones, the sampled one with them.
        query_start_loc_gpu: [requests + 1], int32: first token of each request.
        token_indices_to_sample: [requests], int32, written.
        num_rejected_tokens_gpu: [requests], int64, written.
    """
    zero = cu_num_draft_tokens.new_zeros(1)
    drafted = cu_num_draft_tokens[:num_reqs].diff(prepend=zero)
    rejected = torch.where(
        drafted > 0, drafted + 1 - valid_sampled_tokens_count[:num_reqs], torch.zeros_like(drafted)
    )
    num_rejected_tokens_gpu[:num_reqs] = rejected
    last = query_start_loc_gpu[1 : num_reqs + 1] - 1
    token_indices_to_sample[:num_reqs] = (last - rejected).to(torch.int32)


def eagle_prepare_next_token_padded_kernel_impl(
    sampled_token_ids: torch.Tensor,
    discard_request_mask: torch.Tensor,
    backup_next_token_ids: torch.Tensor,
    next_token_ids: torch.Tensor,
    valid_sampled_tokens_count: torch.Tensor,
    vocab_size: int,
    num_sampled_tokens_per_req: int,
    num_reqs: int,
) -> None:
    """The last valid token of each request and their number, or its backup token.

    Args:
        sampled_token_ids: [requests, columns], int64; -1 and beyond the vocabulary is none.
        discard_request_mask: [requests], bool: those without a valid token.
        backup_next_token_ids: [requests], int64.
        next_token_ids: [requests], int64, written.
        valid_sampled_tokens_count: [requests], int64, written.
    """
    rows = sampled_token_ids[:num_reqs, :num_sampled_tokens_per_req]
    valid = (rows != -1) & (rows < vocab_size) & ~discard_request_mask[:num_reqs, None]
    for request in range(num_reqs):
        tokens = rows[request][valid[request]]
        next_token_ids[request] = tokens[-1] if len(tokens) else backup_next_token_ids[request]
        valid_sampled_tokens_count[request] = len(tokens)


def eagle_step_slot_mapping_metadata_kernel_impl(
    positions: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    out_clamped_positions: torch.Tensor,
    out_slot_mapping: torch.Tensor,
    block_size: int,
    max_model_len: int,
    PAD_ID: int,  # noqa: N803  the engine's name
) -> None:
    """The next position of each request, its slot, and its length, which grows by one.

    Args:
        positions: [requests], int64.
        block_table: [requests, blocks], int32.
        seq_lens: [requests], int32, in place.
        out_clamped_positions: [requests], int64, written: 0 beyond ``max_model_len``.
        out_slot_mapping: [slots], int64, written: ``PAD_ID`` beyond it and behind the requests.
    """
    count = len(positions)
    beyond = positions >= max_model_len - 1
    moved = torch.where(beyond, 0, positions + 1)
    block = (moved // block_size).clamp_max(block_table.shape[1] - 1)
    blocks = block_table[:count].long().gather(1, block[:, None])[:, 0] if count else moved
    out_clamped_positions[:count] = moved
    out_slot_mapping[:count] = torch.where(beyond, PAD_ID, blocks * block_size + moved % block_size)
    out_slot_mapping[count:] = PAD_ID
    grown = torch.where(beyond, 1, seq_lens[:count].long() + 1)
    seq_lens[:count] = grown.clamp_max(max_model_len).to(torch.int32)
