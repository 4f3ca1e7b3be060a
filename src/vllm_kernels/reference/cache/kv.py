"""The paged key/value cache (Kwon et al., PagedAttention, 2023)."""

from __future__ import annotations

import ctypes

import torch

from vllm_kernels.reference.paged import FLOAT8, kept_slots, to_float8
from vllm_kernels.reference.quant import divided

_PLAIN = ("auto", "bfloat16", "float16", "float32")


def cpu_float8(kv_cache_dtype: str) -> torch.dtype | None:
    """The float8 of the CPU's caches of that name; None where they have the tokens' dtype.

    Raises:
        NotImplementedError: It names no format that the CPU's caches have.
    """
    if kv_cache_dtype in _PLAIN:
        return None
    if kv_cache_dtype not in FLOAT8:
        raise NotImplementedError(f"kv_cache_dtype is {kv_cache_dtype!r}, want auto or fp8")
    return FLOAT8[kv_cache_dtype]


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
    min(n, tokens) are taken. With a ``kv_cache_dtype`` of 8 bits the caches are uint8 (or
    float8_e4m3fn) and get key / k_scale and value / v_scale, saturated.
    """
    tokens = min(key.shape[0], slot_mapping.shape[0])
    slots = slot_mapping[:tokens]
    kept = (slots >= 0).nonzero().flatten()
    block_size = key_cache.shape[2]
    block, offset = slots[kept] // block_size, slots[kept] % block_size
    cpu_float8(kv_cache_dtype)  # refuses what no cache here has
    for given, cache, scale in ((key, key_cache, k_scale), (value, value_cache, v_scale)):
        factor = torch.tensor(scale, dtype=torch.float32)
        cache[block, :, offset] = _stored(given[kept], cache, kv_cache_dtype, factor)


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


def _stored(
    x: torch.Tensor, cache: torch.Tensor, kv_cache_dtype: str, scale: torch.Tensor
) -> torch.Tensor:
    """``x`` [tokens, heads, size] as the cache holds it; ``scale``: one, or one for each head."""
    if kv_cache_dtype not in FLOAT8:
        return x
    by_head = scale.reshape(()) if scale.numel() == 1 else scale.reshape(1, -1, 1)
    return to_float8(x, by_head, FLOAT8[kv_cache_dtype]).view(cache.dtype)


def reshape_and_cache_flash(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
) -> None:
    """Write tokens into their slots of the cache; a slot that it does not have is skipped.

    ``key``, ``value``: [tokens, heads, head_size]; the caches [blocks, block_size, heads,
    head_size] of the same dtype, or by ``kv_cache_dtype`` ("fp8", "fp8_e4m3", "fp8_e5m2") float8,
    as such or as uint8, of key / k_scale. ``slot_mapping``: int64 [n], of which and of the tokens
    the first min(n, tokens) are taken. Scales: float32, one or one for each head.
    """
    kept, block, slot = kept_slots(slot_mapping, key.shape[0], *key_cache.shape[:2])
    key_cache[block, slot] = _stored(key[kept], key_cache, kv_cache_dtype, k_scale)
    value_cache[block, slot] = _stored(value[kept], value_cache, kv_cache_dtype, v_scale)


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    k_scale: torch.Tensor,
    v_scale: torch.Tensor,
) -> None:
    """The same into the older layout.

    ``key_cache``: [blocks, heads, head_size / x, block_size, x]; ``value_cache``: [blocks, heads,
    head_size, block_size].
    """
    blocks, block_size = key_cache.shape[0], key_cache.shape[3]
    kept, block, slot = kept_slots(slot_mapping, key.shape[0], blocks, block_size)
    keys = _stored(key[kept], key_cache, kv_cache_dtype, k_scale)
    groups = keys.reshape(*keys.shape[:2], key_cache.shape[2], key_cache.shape[4])
    key_cache[block, :, :, slot] = groups
    value_cache[block, :, :, slot] = _stored(value[kept], value_cache, kv_cache_dtype, v_scale)


def concat_and_cache_mla(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    scale: torch.Tensor,
) -> None:
    """Write concat(kv_c, k_pe) of each token into its slot (DeepSeek-V2, 2024).

    ``kv_c``: [tokens, rank]; ``k_pe``: [tokens, rope]; ``kv_cache``: [blocks, block_size,
    rank + rope]. With "fp8_ds_mla" entries are 656 bytes: 512 float8_e4m3fn, a float32 scale for
    each 128 of them (max |x| / 448), and ``k_pe`` as it is.
    """
    tokens = kv_c.shape[0]
    kept, block, slot = kept_slots(slot_mapping, tokens, *kv_cache.shape[:2])
    if kv_cache_dtype == "fp8_ds_mla":
        tiles = kv_c[kept].float().reshape(len(kept), 4, 128)
        scales = divided(tiles.abs().amax(-1, keepdim=True), 448).clamp_min(2.0**-126)
        quantised = to_float8(tiles, scales, torch.float8_e4m3fn)
        parts = [quantised.flatten(1), scales.flatten(1), k_pe[kept].contiguous()]
        entry = torch.cat([part.view(torch.uint8) for part in parts], dim=-1)
        kv_cache[block, slot] = entry.view(kv_cache.dtype)
        return
    both = torch.cat((kv_c[kept], k_pe[kept]), dim=-1).unsqueeze(1)
    kv_cache[block, slot] = _stored(both, kv_cache, kv_cache_dtype, scale).squeeze(1)


def concat_and_cache_mla_cpu(
    kv_c_normed: torch.Tensor,
    k_pe: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    """``concat_and_cache_mla`` into a cache of the tokens' dtype.

    ``k_pe`` may be [tokens, 1, rope]; ``slot_mapping`` is int32 or int64.
    """
    kept, block, slot = kept_slots(slot_mapping, len(kv_c_normed), *kv_cache.shape[:2])
    kv_cache[block, slot] = torch.cat((kv_c_normed[kept], k_pe[kept].flatten(1)), dim=-1)


def concat_and_cache_mla_grouped(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    kv_cache_ptrs: torch.Tensor,
    slot_mapping: torch.Tensor,
    block_size: int,
    block_stride: int,
    entry_stride: int,
    kv_scales: torch.Tensor | None = None,
    kv_cache_dtype: str = "auto",
) -> None:
    """``concat_and_cache_mla`` of several layers, into caches that are known by their addresses.

    ``kv_c``: [layers, tokens, rank]; ``k_pe``: [layers, tokens, rope]; ``kv_cache_ptrs``: int64
    [layers], here of host memory; ``slot_mapping``: int64 [layers, n]; strides in elements of a
    cache; ``kv_scales``: float32 [layers], for float8.
    """
    dtype = FLOAT8.get(kv_cache_dtype, kv_c.dtype)
    scales = kv_scales if kv_scales is not None else [torch.ones(())] * len(kv_c)
    layers = zip(kv_c, k_pe, kv_cache_ptrs.tolist(), slot_mapping, scales, strict=True)
    for latents, ropes, address, slots, scale in layers:
        blocks = int(slots.max()) // block_size + 1 if slots.numel() else 0
        entry = kv_c.shape[-1] + k_pe.shape[-1]
        size = max(blocks - 1, 0) * block_stride + (block_size - 1) * entry_stride + entry
        if blocks <= 0:
            continue
        memory = (ctypes.c_uint8 * (size * dtype.itemsize)).from_address(address)
        elements = torch.frombuffer(memory, dtype=torch.uint8).view(
            torch.uint8 if kv_cache_dtype in FLOAT8 else dtype
        )
        cache = elements.as_strided((blocks, block_size, entry), (block_stride, entry_stride, 1))
        concat_and_cache_mla(latents, ropes, cache, slots, kv_cache_dtype, scale)


def concat_and_cache_mla_rope_fused(
    positions: torch.Tensor,
    q_pe: torch.Tensor,
    k_pe: torch.Tensor,
    kv_c: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
    slot_mapping: torch.Tensor,
    kv_cache: torch.Tensor,
    kv_cache_dtype: str,
    kv_cache_scale: torch.Tensor,
) -> None:
    """``concat_and_cache_mla`` after the rotary embedding of ``k_pe`` and ``q_pe``, in place.

    ``q_pe``: [tokens, heads, rope]; ``positions``: int64 [tokens]; ``cos_sin_cache``: [positions,
    rope], cosines of the pairs, then sines. Tokens without a slot or a position are left.
    """
    slots = kv_cache.shape[0] * kv_cache.shape[1]
    known = (slot_mapping >= 0) & (slot_mapping < slots)
    known &= (positions >= 0) & (positions < len(cos_sin_cache))
    cosines, sines = cos_sin_cache[positions[known]].float().chunk(2, dim=-1)
    for tensor, heads in ((q_pe, 1), (k_pe, 0)):
        cos, sin = (cosines.unsqueeze(1), sines.unsqueeze(1)) if heads else (cosines, sines)
        part = tensor[known].float()
        x, y = part.chunk(2, dim=-1) if is_neox else (part[..., 0::2], part[..., 1::2])
        turned = (x * cos - y * sin, y * cos + x * sin)
        both = torch.cat(turned, -1) if is_neox else torch.stack(turned, -1).flatten(-2)
        tensor[known] = both.to(tensor.dtype)
    concat_and_cache_mla(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, kv_cache_scale)


def concat_mla_q(ql_nope: torch.Tensor, q_pe: torch.Tensor, q_out: torch.Tensor) -> None:
    """``q_out`` [tokens, heads, a + b] = concat of ``ql_nope`` [.., a] and ``q_pe`` [.., b].

    More heads of ``q_out`` stay as they are.
    """
    q_out[:, : ql_nope.shape[1]].copy_(torch.cat((ql_nope, q_pe), dim=-1))


def _gathered(
    src_cache: torch.Tensor,
    block_table: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    sequence: torch.Tensor,
    token: torch.Tensor,
    seq_starts: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of tokens, each in the sequence given, those with an entry in the cache, and the entries."""
    position = token - cu_seq_lens[sequence]
    if seq_starts is not None:
        position = position + seq_starts[sequence]
    block_size = src_cache.shape[1]
    known = (position >= 0) & (position < block_table.shape[1] * block_size)
    token, sequence, position = token[known], sequence[known], position[known]
    block = block_table[sequence, position // block_size].long()
    known = (block >= 0) & (block < len(src_cache))
    return token[known], src_cache[block[known], position[known] % block_size]


def gather_and_maybe_dequant_cache(
    src_cache: torch.Tensor,
    dst: torch.Tensor,
    block_table: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    token_to_seq: torch.Tensor,
    num_tokens: int,
    kv_cache_dtype: str,
    scale: torch.Tensor,
    seq_starts: torch.Tensor | None,
) -> None:
    """Row t of ``dst`` = the cache's entry of token t, times ``scale`` where the cache is float8.

    ``src_cache``: [blocks, block_size, ...]; ``dst``: [>= num_tokens, ...]; int32:
    ``block_table`` [sequences, pages], ``cu_seq_lens`` [sequences + 1], ``token_to_seq``
    [>= num_tokens], ``seq_starts`` [sequences]: what is added to positions. Tokens past their
    sequence's end are left, and so are those without a page or a block.
    """
    token = torch.arange(num_tokens, device=dst.device)
    sequence = token_to_seq[:num_tokens].long()
    known = (sequence >= 0) & (sequence < len(cu_seq_lens) - 1)
    known[known.clone()] = token[known] < cu_seq_lens[sequence[known] + 1]
    token, entries = _gathered(
        src_cache, block_table, cu_seq_lens, sequence[known], token[known], seq_starts
    )
    if kv_cache_dtype in FLOAT8:
        entries = entries.view(FLOAT8[kv_cache_dtype]).float() * scale.reshape(())
    dst[token] = entries.to(dst.dtype)


def cp_gather_cache(
    src_cache: torch.Tensor,
    dst: torch.Tensor,
    block_table: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    batch_size: int,
    seq_starts: torch.Tensor | None,
) -> None:
    """The same without conversion for all tokens of the first ``batch_size`` sequences.

    Tokens beyond the rows of ``dst`` have none.
    """
    token = torch.arange(len(dst), device=dst.device)
    ends = cu_seq_lens[1 : batch_size + 1].long()
    sequence = torch.searchsorted(ends, token, right=True)
    token = token[sequence < batch_size]
    token, entries = _gathered(
        src_cache, block_table, cu_seq_lens, sequence[: len(token)], token, seq_starts
    )
    dst[token] = entries


def convert_fp8(
    dst_cache: torch.Tensor, src_cache: torch.Tensor, scale: float, kv_cache_dtype: str
) -> None:
    """``src / scale`` as float8, or ``src * scale`` from it; "auto" is float8_e4m3fn."""
    dtype = FLOAT8.get(kv_cache_dtype, torch.float8_e4m3fn)
    if dst_cache.element_size() == 1:
        by = torch.full((), scale, device=src_cache.device)
        dst_cache.copy_(to_float8(src_cache, by, dtype).view(dst_cache.dtype))
    else:
        dst_cache.copy_(src_cache.view(dtype).float() * scale)


def swap_blocks(
    src: torch.Tensor, dst: torch.Tensor, block_size_in_bytes: int, block_mapping: torch.Tensor
) -> None:
    """Copy blocks from one memory to another; ``block_mapping``: int64 [n, 2], from and to."""
    source = src.view(-1).view(torch.uint8)
    target = dst.view(-1).view(torch.uint8)
    for from_block, to_block in block_mapping.tolist():
        start, end = to_block * block_size_in_bytes, (to_block + 1) * block_size_in_bytes
        first = from_block * block_size_in_bytes
        target[start:end].copy_(source[first : first + block_size_in_bytes])


def swap_blocks_batch(
    src_ptrs: torch.Tensor,
    dst_ptrs: torch.Tensor,
    sizes: torch.Tensor,
    is_src_access_order_any: bool = False,
) -> None:
    """Copy ``sizes[i]`` bytes between addresses; int64 [n] each. Here: of host memory.

    The addresses and sizes are trusted: nothing can tell whether that memory is the caller's.
    """
    for source, target, size in zip(
        src_ptrs.tolist(), dst_ptrs.tolist(), sizes.tolist(), strict=True
    ):
        ctypes.memmove(target, source, size)
