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


def _slots(table: torch.Tensor, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Where [requests, n] positions lie in the cache; behind the table, in its last block."""
    block = (positions // block_size).clamp_max(table.shape[1] - 1)
    return table.long().gather(1, block) * block_size + positions % block_size


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
    slots = _slots(block_table[:count], moved[:, None], block_size)[:, 0] if count else moved
    out_clamped_positions[:count] = moved
    out_slot_mapping[:count] = torch.where(beyond, PAD_ID, slots)
    out_slot_mapping[count:] = PAD_ID
    grown = torch.where(beyond, 1, seq_lens[:count].long() + 1)
    seq_lens[:count] = grown.clamp_max(max_model_len).to(torch.int32)


def copy_and_expand_eagle_inputs_kernel_impl(
    target_token_ids: torch.Tensor,
    target_positions: torch.Tensor,
    next_token_ids: torch.Tensor,
    out_input_ids: torch.Tensor,
    out_positions: torch.Tensor,
    out_is_rejected_token_mask: torch.Tensor,
    out_is_masked_token_mask: torch.Tensor,
    out_new_token_indices: torch.Tensor,
    out_hidden_state_mapping: torch.Tensor,
    query_start_loc: torch.Tensor,
    query_end_loc: torch.Tensor,
    padding_token_id: int,
    parallel_drafting_token_id: int,
    total_input_tokens: int,
    num_padding_slots_per_request: int,
    shift_input_ids: bool,
) -> None:
    """Give each request its accepted tokens, the sampled one, drafted ones and padding.

    Args:
        target_token_ids: [tokens], int64, as ``target_positions``, of which the first counts.
        next_token_ids: [requests], int64: the sampled tokens.
        out_input_ids: [tokens + requests (slots - shift)], int64, written, as ``out_positions``
            and the two masks: of what is rejected, and of what is drafted.
        out_new_token_indices: [requests slots], int32, written: where the sampled token and the
            drafted ones lie.
        out_hidden_state_mapping: [tokens], int32, written with ``shift_input_ids``: where the
            hidden state of each token goes.
        query_start_loc: [requests + 1], int32.
        query_end_loc: [requests], int32: the last accepted token of each.
        total_input_tokens: At least the last of ``query_start_loc``.
        num_padding_slots_per_request: ``slots``: the sampled token and the drafted ones.
        shift_input_ids: Whether a request's first token is left out.
    """
    shift, slots = int(shift_input_ids), num_padding_slots_per_request
    for request, end in enumerate(query_end_loc.tolist()):
        start, behind = query_start_loc[request : request + 2].tolist()
        accepted = target_token_ids[start + shift : end + 1]
        drafted = accepted.new_full((slots - 1,), parallel_drafting_token_id)
        padding = accepted.new_full((behind - end - 1,), padding_token_id)
        new = next_token_ids[request : request + 1]
        ids = torch.cat((accepted, new, drafted, padding))
        place = torch.arange(len(ids))
        rejected, first = place >= len(accepted) + slots, start + request * (slots - shift)
        at = slice(first, first + len(ids))
        out_input_ids[at] = ids
        out_positions[at] = torch.where(rejected, 0, target_positions[start] + place)
        out_is_rejected_token_mask[at] = rejected
        out_is_masked_token_mask[at] = (place > len(accepted)) & ~rejected
        indices = first + len(accepted) + torch.arange(slots)
        out_new_token_indices[request * slots : (request + 1) * slots] = indices.int()
        if shift_input_ids:
            out_hidden_state_mapping[start:behind] = first + torch.arange(behind - start).int()


def copy_and_expand_dflash_inputs_kernel_impl(
    next_token_ids: torch.Tensor,
    target_positions: torch.Tensor,
    out_input_ids: torch.Tensor,
    out_context_positions: torch.Tensor,
    out_query_positions: torch.Tensor,
    out_context_slot_mapping: torch.Tensor,
    out_query_slot_mapping: torch.Tensor,
    out_token_indices: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    num_rejected_tokens: torch.Tensor | None,
    parallel_drafting_token_id: int,
    block_size: int,
    num_query_per_req: int,
    num_speculative_tokens: int,
    total_input_tokens: int,
    has_num_rejected: bool,
) -> None:
    """Let each request query the sampled token and masked ones behind its last accepted token.

    Args:
        next_token_ids: [requests], int64: the sampled tokens.
        target_positions: [tokens], int64.
        out_input_ids: [requests num_query_per_req], int64, written, as ``out_query_positions`` and
            ``out_query_slot_mapping``.
        out_context_positions: [tokens], int64, written, as ``out_context_slot_mapping``.
        out_token_indices: [requests num_speculative_tokens], int32, written: where the masked
            tokens lie.
        block_table: [requests, blocks], int32; what lies behind it is in its last block.
        query_start_loc: [requests + 1], int32.
        num_rejected_tokens: [requests], int64: of the last tokens, where ``has_num_rejected``.
        total_input_tokens: At least the last of ``query_start_loc``.
    """
    count = num_query_per_req
    for request, new in enumerate(next_token_ids[: len(query_start_loc) - 1].tolist()):
        start, behind = query_start_loc[request : request + 2].tolist()
        accepted = behind
        if has_num_rejected and num_rejected_tokens is not None:
            accepted -= int(num_rejected_tokens[request])
        context = target_positions[start:behind]
        query = target_positions[max(accepted, start + 1) - 1] + 1 + torch.arange(count)
        row = block_table[request : request + 1]
        at = slice(request * count, (request + 1) * count)
        out_context_positions[start:behind] = context
        out_context_slot_mapping[start:behind] = _slots(row, context[None], block_size)[0]
        out_query_positions[at] = query
        out_query_slot_mapping[at] = _slots(row, query[None], block_size)[0]
        out_input_ids[at] = parallel_drafting_token_id
        out_input_ids[request * count] = new
        first = request * num_speculative_tokens
        masked = torch.arange(request * count + 1, (request + 1) * count)
        out_token_indices[first : first + count - 1] = masked.int()
