"""The paged key/value cache (Kwon et al., PagedAttention, 2023)."""

from __future__ import annotations

import torch


def cpu_attn_reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    isa: str,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    kv_cache_dtype: str = "auto",
) -> None:
    """Write tokens into their slots of the cache; a slot of -1 is skipped.

    ``key``, ``value``: [tokens, kv_heads, head_size]; the caches [blocks, kv_heads, block_size,
    head_size], one dtype; ``slot_mapping``: int64 [n], of which and of the tokens the first
    min(n, tokens) are taken. The scales belong to quantised caches: NotImplementedError.
    """
    if kv_cache_dtype != "auto":
        raise NotImplementedError(
            f'cpu_attn_reshape_and_cache: kv_cache_dtype is "{kv_cache_dtype}", want "auto"'
        )
    tokens = min(key.shape[0], slot_mapping.shape[0])
    slots = slot_mapping[:tokens]
    kept = (slots >= 0).nonzero().flatten()
    block_size = key_cache.shape[2]
    block, offset = slots[kept] // block_size, slots[kept] % block_size
    key_cache[block, :, offset] = key[kept]
    value_cache[block, :, offset] = value[kept]


def compute_slot_mapping_kernel_impl(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    slot_mapping: torch.Tensor,
    block_size: int,
) -> None:
    """Slot of each scheduled token; nothing else of ``slot_mapping`` is written.

    ``query_start_loc``: int32 [requests + 1]; ``positions``: int64 [>= tokens]; ``block_table``:
    int32 [>= requests, max_blocks]; ``slot_mapping``: int64 [>= tokens].
    """
    first, last = int(query_start_loc[0]), int(query_start_loc[-1])
    lengths = query_start_loc.diff().long()
    requests = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    position = positions[first:last]
    block = block_table[requests, position // block_size].long()
    slot_mapping[first:last] = block * block_size + position % block_size
