"""Attention over the paged key/value cache, request by request in float32 (float64 stays)."""

from __future__ import annotations

from itertools import pairwise

import torch

from vllm_kernels.reference.cache.kv import cpu_float8

_METADATA_BYTES = 16


def get_scheduler_metadata(
    num_req: int,
    num_heads_q: int,
    num_heads_kv: int,
    head_dim: int,
    seq_lens: torch.Tensor,
    dtype: torch.dtype,
    query_start_loc: torch.Tensor,
    casual: bool,
    window_size: int,
    isa_hint: str,
    enable_kv_split: bool,
    dynamic_causal: torch.Tensor | None,
) -> torch.Tensor:
    """Opaque int8 tensor; the reference plans nothing, so it holds nothing."""
    return torch.zeros(_METADATA_BYTES, dtype=torch.int8, device=seq_lens.device)


def cpu_attn_has_isa(isa: str) -> bool:
    """No instruction set is needed, so only the portable layouts ("vec", "vec16") are there."""
    return isa in ("vec", "vec16")


def visible_keys(
    queries: int, keys: int, causal: bool, window: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask [queries, keys] of the visible keys, and their distance from the query."""
    query = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    distance = torch.arange(keys, device=device).unsqueeze(0) - query
    visible = torch.ones_like(distance, dtype=torch.bool)
    if causal:
        visible &= distance <= 0
    if window != -1:
        visible &= distance.abs() < window
    return visible, distance


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float,
    visible: torch.Tensor,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """[queries, heads, value_size] of one request, in float32 or float64.

    ``query`` [queries, heads, head_size]; ``key`` and ``value`` [keys, kv_heads, ...] in float32 or
    float64; ``visible`` [queries, keys]; ``bias`` of the logits [kv_heads, group, queries, keys].
    """
    wide = key.dtype
    queries, kv_heads = len(query), key.shape[1]
    grouped = query.to(wide).unflatten(1, (kv_heads, query.shape[1] // kv_heads))
    logits = torch.einsum("qhgd,khd->hgqk", grouped, key) * scale
    if softcap > 0:
        logits = softcap * torch.tanh(logits / softcap)
    if bias is not None:
        logits += bias
    logits.masked_fill_(~visible, float("-inf"))
    if sinks is not None:
        sink = sinks.to(wide).view(kv_heads, -1, 1, 1).expand(-1, -1, queries, 1)
        weights = torch.cat((logits, sink), -1).softmax(-1)[..., :-1]
    else:
        weights = logits.softmax(-1)
    # A row without a visible key is 0/0 above.
    weights = weights.masked_fill(~visible, 0.0)
    seen = visible.any(0)
    value = value.masked_fill(~seen.view(-1, 1, 1), 0.0)
    return torch.einsum("hgqk,khd->qhgd", weights, value).flatten(1, 2)


def cpu_attention_with_kv_cache(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    output: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    scale: float,
    causal: bool,
    alibi_slopes: torch.Tensor | None,
    sliding_window_size: int,
    block_table: torch.Tensor,
    softcap: float,
    scheduler_metadata: torch.Tensor,
    s_aux: torch.Tensor | None,
    dynamic_causal: torch.Tensor | None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    kv_cache_dtype: str = "auto",
) -> None:
    """Write ``output`` [tokens, heads, head_size]; see csrc/cpu/attention/attention.h.

    ``query`` as ``output``; caches [blocks, kv_heads, block_size, head_size]; ``query_start_loc``
    int32 [requests + 1]; ``seq_lens`` int32 [requests]; ``block_table`` int32 [requests,
    max_blocks]; ``alibi_slopes`` (Press et al. 2022) and the sinks ``s_aux`` [heads];
    ``dynamic_causal`` bool [requests]. With a ``kv_cache_dtype`` of 8 bits the caches are uint8 (or
    float8_e4m3fn) and hold key / k_scale and value / v_scale.
    """
    if float8 := cpu_float8(kv_cache_dtype):
        key_cache, value_cache = (
            cache.view(float8).to(query.dtype) for cache in (key_cache, value_cache)
        )
        scale *= k_scale
    else:
        v_scale = 1.0
    wide = torch.promote_types(query.dtype, torch.float32)
    kv_heads, block_size, head_size = key_cache.shape[1:]
    group = query.shape[1] // kv_heads
    starts, lengths = query_start_loc.tolist(), seq_lens.tolist()
    for index, (begin, end) in enumerate(pairwise(starts)):
        if begin == end:
            continue
        length, queries = lengths[index], end - begin
        blocks = block_table[index, : -(-length // block_size)].long()
        # Pages that no query sees may be freed: their table entries mean nothing.
        blocks = blocks.clamp(0, key_cache.shape[0] - 1)
        key, value = (
            cache[blocks].transpose(1, 2).reshape(-1, kv_heads, head_size)[:length].to(wide)
            for cache in (key_cache, value_cache)
        )
        is_causal = causal if dynamic_causal is None else bool(dynamic_causal[index])
        visible, distance = visible_keys(
            queries, length, is_causal, sliding_window_size, query.device
        )
        bias = None
        if alibi_slopes is not None:
            bias = alibi_slopes.to(wide).view(kv_heads, group, 1, 1) * distance
        found = attend(query[begin:end], key, value, scale, softcap, visible, bias, s_aux)
        output[begin:end] = found * v_scale


def mla_decode_kvcache(
    out: torch.Tensor,
    query: torch.Tensor,
    kv_cache: torch.Tensor,
    scale: float,
    block_tables: torch.Tensor,
    seq_lens: torch.Tensor,
) -> None:
    """Latent attention (DeepSeek-V2 2024) of one token of each request; see attention.h.

    ``out`` [requests, heads, value_size], written; ``query`` [requests, heads, head_size];
    ``kv_cache`` [blocks, block_size, head_size], of whose rows the first ``value_size`` elements
    are the values; ``block_tables`` int32 [requests, max_blocks]; ``seq_lens`` int32 [requests].
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    block_size, head_size = kv_cache.shape[1:]
    for row, length in enumerate(seq_lens[: len(query)].tolist()):
        blocks = block_tables[row, : -(-length // block_size)].long()
        keys = kv_cache[blocks].reshape(-1, head_size)[:length].to(wide)
        weights = (query[row].to(wide) @ keys.T * scale).softmax(-1)
        out[row] = weights @ keys[:, : out.shape[-1]]
