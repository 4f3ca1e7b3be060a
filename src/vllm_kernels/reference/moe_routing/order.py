"""References of the mixture of experts: the order of entries, and moving rows."""

from __future__ import annotations

import torch


def _local(ids: torch.Tensor, experts: int, expert_map: torch.Tensor | None) -> torch.Tensor:
    """Local expert of each id, -1 where it has none."""
    ids = ids.long().flatten()
    known = (ids >= 0) & (ids < experts)
    local = ids.where(known, 0)
    if expert_map is not None:
        local = expert_map.long()[local]
    return local.where(known, -1)


def _align(
    entries: torch.Tensor,
    experts: torch.Tensor,
    num_experts: int,
    block_size: int,
    nothing: int,
    sorted_token_ids: torch.Tensor,
    experts_ids: torch.Tensor,
    num_tokens_post_pad: torch.Tensor,
) -> None:
    """Entries, in order, go to the blocks of their experts; -1 is left out."""
    used = experts >= 0
    entries, experts = entries[used], experts[used]
    order = experts.argsort(stable=True)
    counts = torch.bincount(experts, minlength=num_experts)
    blocks = (counts + block_size - 1) // block_size
    padding = blocks.cumsum(0) * block_size - blocks * block_size - (counts.cumsum(0) - counts)
    places = torch.arange(len(order), device=order.device) + padding[experts[order]]
    sorted_token_ids.fill_(nothing)
    sorted_token_ids[places] = entries[order].to(sorted_token_ids.dtype)
    names = torch.arange(num_experts, device=blocks.device).repeat_interleave(blocks)
    experts_ids.fill_(-1)
    experts_ids[: len(names)] = names.to(experts_ids.dtype)
    num_tokens_post_pad.view(-1)[0] = int(blocks.sum()) * block_size


def moe_align_block_size(
    topk_ids: torch.Tensor,
    num_experts: int,
    block_size: int,
    sorted_token_ids: torch.Tensor,
    experts_ids: torch.Tensor,
    num_tokens_post_pad: torch.Tensor,
    maybe_expert_map: torch.Tensor | None,
    scatter_idx: torch.Tensor | None = None,
) -> None:
    """Entries of ``topk_ids`` by expert, each expert's share padded to whole blocks.

    Args:
        topk_ids: [tokens, topk], int32, uint32 or int64; ids outside of [0, num_experts) are left
            out.
        num_experts: Experts, before the map.
        block_size: Entries of a block.
        sorted_token_ids: int32, written: entries (0 to their count - 1) in the order of experts;
            padding is the count.
        experts_ids: int32, written: expert of each block, -1 for blocks past the end.
        num_tokens_post_pad: int32 [1], written: entries with padding; what is behind it stays.
        maybe_expert_map: int32 [num_experts]: local number, or -1 for what is left out; or None.
        scatter_idx: int32, as many as ids, written: the entry, or -1 where it is left out; or None.
    """
    local = _local(topk_ids, num_experts, maybe_expert_map)
    entries = torch.arange(len(local), device=local.device)
    _align(
        entries,
        local,
        num_experts,
        block_size,
        len(local),
        sorted_token_ids,
        experts_ids,
        num_tokens_post_pad,
    )
    if scatter_idx is not None:
        scatter_idx.copy_(entries.where(local >= 0, -1).view(scatter_idx.shape))


def fused_globalize_align_block_size(
    topk_idx: torch.Tensor,
    psum: torch.Tensor,
    rank_expert_offset: int,
    global_num_experts: int,
    local_num_experts: int,
    block_size: int,
    sorted_ids: torch.Tensor,
    expert_ids: torch.Tensor,
    num_tokens_post_pad: torch.Tensor,
    scatter_idx: torch.Tensor | None = None,
) -> None:
    """Local numbers of experts as global ones, in place, and ``moe_align_block_size`` of them.

    ``topk_idx``: int64 [tokens, topk]; of tokens from ``psum[-1]`` on, of no expert and of one from
    ``global_num_experts`` on it becomes -1. ``expert_ids`` are local numbers.
    """
    rows = torch.arange(len(topk_idx), device=topk_idx.device)[:, None]
    made = topk_idx + rank_expert_offset
    used = (topk_idx >= 0) & (made < global_num_experts) & (rows < psum[-1])
    moe_align_block_size(
        topk_idx.where(used, -1),
        local_num_experts,
        block_size,
        sorted_ids,
        expert_ids,
        num_tokens_post_pad,
        None,
        scatter_idx,
    )
    topk_idx.copy_(made.where(used, -1))


def moe_lora_align_block_size(
    topk_ids: torch.Tensor,
    token_lora_mapping: torch.Tensor,
    num_experts: int,
    block_size: int,
    max_loras: int,
    max_num_tokens_padded: int,
    max_num_m_blocks: int,
    sorted_token_ids: torch.Tensor,
    experts_ids: torch.Tensor,
    num_tokens_post_pad: torch.Tensor,
    adapter_enabled: torch.Tensor,
    lora_ids: torch.Tensor,
    maybe_expert_map: torch.Tensor | None,
) -> None:
    """``moe_align_block_size`` of each adapter's tokens, in the adapter's part of the outputs.

    ``token_lora_mapping``: int32 [tokens]; ``lora_ids``: int32, the adapters to do, -1 for none;
    adapters that are not enabled are passed over. Outputs have ``max_loras`` parts, of
    ``max_num_tokens_padded``, ``max_num_m_blocks`` and 1 elements.
    """
    local = _local(topk_ids, num_experts, maybe_expert_map)
    owner = token_lora_mapping.long().repeat_interleave(topk_ids.shape[1])
    entries = torch.arange(len(local), device=local.device)
    for adapter in lora_ids.tolist():
        if not 0 <= adapter < max_loras or not int(adapter_enabled[adapter]):
            continue
        _align(
            entries,
            local.where(owner == adapter, -1),
            num_experts,
            block_size,
            len(local),
            sorted_token_ids.flatten()[adapter * max_num_tokens_padded :][:max_num_tokens_padded],
            experts_ids.flatten()[adapter * max_num_m_blocks :][:max_num_m_blocks],
            num_tokens_post_pad.flatten()[adapter : adapter + 1],
        )


def batched_moe_align_block_size(
    max_tokens_per_batch: int,
    block_size: int,
    expert_num_tokens: torch.Tensor,
    sorted_token_ids: torch.Tensor,
    experts_ids: torch.Tensor,
    num_tokens_post_pad: torch.Tensor,
) -> None:
    """``moe_align_block_size`` where expert e's tokens are rows e * max_tokens_per_batch on.

    ``expert_num_tokens``: int32 [experts], at most 1024; taken as 0 to ``max_tokens_per_batch``.
    Of ``sorted_token_ids`` and ``experts_ids`` as much is written as full experts would take.
    """
    experts = len(expert_num_tokens)
    blocks = experts * -(-max_tokens_per_batch // block_size)
    rows = torch.arange(experts * max_tokens_per_batch, device=expert_num_tokens.device)
    expert, place = rows // max(max_tokens_per_batch, 1), rows % max(max_tokens_per_batch, 1)
    _align(
        rows,
        expert.where(place < expert_num_tokens.long()[expert], -1),
        experts,
        block_size,
        len(rows),
        sorted_token_ids[: blocks * block_size],
        experts_ids[:blocks],
        num_tokens_post_pad,
    )


def moe_permute(
    input: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    expert_map: torch.Tensor | None,
    n_expert: int,
    n_local_expert: int,
    topk: int,
    permuted_input: torch.Tensor,
    expert_first_token_offset: torch.Tensor,
    inv_permuted_idx: torch.Tensor,
    permuted_idx: torch.Tensor,
) -> None:
    """A copy of each token's row for each of its experts, in the order of the experts.

    Args:
        input: [tokens, hidden], any dtype.
        topk_ids: int32 [tokens, topk].
        token_expert_indices: int32 [tokens, topk]: the number of each entry, usually in order; of
            one that there is not, nothing is written but ``permuted_idx``.
        expert_map: int32 [n_expert]: local number or -1; or None.
        n_expert: Experts, before the map.
        n_local_expert: Experts after it.
        topk: Experts of a token.
        permuted_input: [tokens * topk, hidden]; rows of local experts are written.
        expert_first_token_offset: int64 [n_local_expert + 1], written: first row of each expert.
        inv_permuted_idx: int32 [tokens, topk], written: row of each entry; entries of experts that
            are not local come last.
        permuted_idx: int32 [tokens * topk], written up to the last local row: entry of each row.
    """
    local = _local(topk_ids, n_expert, expert_map)
    bucket = local.where((local >= 0) & (local < n_local_expert), n_local_expert)
    order = bucket.argsort(stable=True)
    entries = token_expert_indices.flatten().long()[order]
    counts = torch.bincount(bucket, minlength=n_local_expert + 1)
    expert_first_token_offset.copy_(counts.cumsum(0) - counts)
    rows = torch.arange(len(order), dtype=torch.int32, device=order.device)
    inverse = torch.empty_like(rows)
    inverse[entries] = rows
    inv_permuted_idx.copy_(inverse.view_as(inv_permuted_idx))
    end = int(expert_first_token_offset[-1])
    permuted_idx.view(-1)[:end] = entries[:end].int()  # of any shape
    permuted_input[:end] = input[entries[:end] // max(topk, 1)]


def moe_permute_with_scratch(
    input: torch.Tensor,
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    expert_map: torch.Tensor | None,
    n_expert: int,
    n_local_expert: int,
    topk: int,
    permuted_input: torch.Tensor,
    expert_first_token_offset: torch.Tensor,
    inv_permuted_idx: torch.Tensor,
    permuted_idx: torch.Tensor,
    sort_workspace: torch.Tensor,
    permuted_experts_id: torch.Tensor,
    sorted_row_idx: torch.Tensor,
    topk_ids_for_sort: torch.Tensor,
) -> None:
    """``moe_permute`` with memory to work in: int8 [moe_permute_sort_workspace_size(...)].

    The last three are left as they are.
    """
    moe_permute(
        input,
        topk_ids,
        token_expert_indices,
        expert_map,
        n_expert,
        n_local_expert,
        topk,
        permuted_input,
        expert_first_token_offset,
        inv_permuted_idx,
        permuted_idx,
    )


def moe_prepare_scatter(
    topk_ids: torch.Tensor,
    token_expert_indices: torch.Tensor,
    expert_map: torch.Tensor | None,
    n_expert: int,
    n_local_expert: int,
    expert_first_token_offset: torch.Tensor,
    scatter_idx: torch.Tensor,
    sort_workspace: torch.Tensor,
    sorted_experts: torch.Tensor,
    sorted_rows: torch.Tensor,
    topk_ids_for_sort: torch.Tensor,
) -> None:
    """The order of ``moe_permute`` without the rows themselves.

    ``scatter_idx`` is its ``inv_permuted_idx``, ``sorted_rows`` its ``permuted_idx``; other scratch
    tensors are left as they are.
    """
    nothing = topk_ids.new_empty((topk_ids.numel(), 0))
    moe_permute(
        nothing,
        topk_ids,
        token_expert_indices,
        expert_map,
        n_expert,
        n_local_expert,
        topk_ids.shape[1],
        nothing.clone(),
        expert_first_token_offset,
        scatter_idx,
        sorted_rows.view(-1),
    )


def moe_permute_sort_workspace_size(num_expanded_rows: int, n_expert: int) -> int:
    """Bytes of ``moe_permute_with_scratch``'s workspace."""
    if num_expanded_rows <= 16384:
        return 16
    return min(-(-num_expanded_rows // 1024), 128) * (n_expert + 1) * 4


def moe_permute_unpermute_supported() -> bool:
    """Whether the two exist: always."""
    return True


def moe_unpermute(
    permuted_hidden_states: torch.Tensor,
    topk_weights: torch.Tensor,
    inv_permuted_idx: torch.Tensor,
    expert_first_token_offset: torch.Tensor | None,
    topk: int,
    hidden_states: torch.Tensor,
) -> None:
    """hidden_states[t] = sum over k of topk_weights[t, k] * permuted[inv_permuted_idx[t, k]].

    Args:
        permuted_hidden_states: [rows, hidden], float32, bfloat16 or float16.
        topk_weights: float32 [tokens, topk].
        inv_permuted_idx: int32, tokens * topk elements; numbers that are no row count as 0.
        expert_first_token_offset: int64; rows from its last element on count as 0. Or None.
        topk: Experts of a token.
        hidden_states: [tokens, hidden]; written.
    """
    rows = inv_permuted_idx.reshape(-1, topk).long()
    end = len(permuted_hidden_states)
    if expert_first_token_offset is not None:
        end = min(end, int(expert_first_token_offset[-1]))
    used = (rows >= 0) & (rows < end)
    values = permuted_hidden_states.new_zeros((*rows.shape, hidden_states.shape[1])).float()
    if used.any():
        values = permuted_hidden_states[rows.where(used, 0)].float()
    values = torch.where(used.unsqueeze(-1), values, 0.0)
    hidden_states.copy_((values * topk_weights.unsqueeze(-1)).sum(1))


def moe_sum(
    input: torch.Tensor,
    output: torch.Tensor,
    topk_ids: torch.Tensor | None = None,
    expert_map: torch.Tensor | None = None,
) -> None:
    """output[t] = sum over k of input[t, k], in float32.

    ``input``: [tokens, topk, hidden]; entries whose id in ``topk_ids`` is below 0, or has no
    expert in ``expert_map``, count as 0.
    """
    values = input.float()
    if topk_ids is not None:
        used = topk_ids.long() >= 0
        if expert_map is not None:
            local = _local(topk_ids, len(expert_map), expert_map)
            used = local.view(topk_ids.shape) >= 0
        values = torch.where(used.unsqueeze(-1), values, 0.0)
    output.copy_(values.sum(1))


def shuffle_rows(
    input_tensor: torch.Tensor, dst2src_map: torch.Tensor, output_tensor: torch.Tensor
) -> None:
    """output_tensor[i] = input_tensor[dst2src_map[i]]; rows of any dtype, the map int32.

    Rows for which the map names no row of the input are left.
    """
    rows = dst2src_map.long()
    known = (rows >= 0) & (rows < len(input_tensor))
    output_tensor[known] = input_tensor[rows[known]]


def dsv3_router_gemm(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """output = mat_a @ mat_b.t() with float32 sums: [m, k] and [n, k], bfloat16, m at most 16.

    ``output``: [m, n], float32 or bfloat16.
    """
    output.copy_(mat_a.float() @ mat_b.float().t())


def dsv3_fused_a_gemm(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """output = mat_a @ mat_b with float32 sums: [m, k] and [k, n] as a transposed view, m <= 16."""
    output.copy_(mat_a.float() @ mat_b.float())
