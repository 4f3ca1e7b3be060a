"""Attention of CUDA devices: packed or paged keys, quantised caches, and merging of results."""

from __future__ import annotations

import math
from itertools import pairwise

import torch


def _keys(
    cache: torch.Tensor,
    first: int,
    length: int,
    table: torch.Tensor | None,
) -> torch.Tensor:
    """Keys (or values) [length, kv_heads, head_size] of one request."""
    if table is None:
        return cache[first : first + length]
    pages = -(-length // cache.shape[1])
    # Pages that no query sees may be freed: their table entries mean nothing.
    blocks = table[:pages].long().clamp(0, cache.shape[0] - 1)
    return cache[blocks].flatten(0, 1)[:length]


def _scale(scale: torch.Tensor | None, index: int) -> torch.Tensor | float:
    """A factor, or one per key/value head."""
    if scale is None:
        return 1.0
    if scale.numel() == 1:
        return scale.reshape(())
    return scale[index].unsqueeze(-1)


def varlen_attention(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor | None,
    key_start_loc: torch.Tensor | None,
    block_table: torch.Tensor | None,
    max_query_len: int,
    max_seq_len: int,
    scale: float,
    causal: bool = True,
    window_left: int = -1,
    window_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    softmax_lse: torch.Tensor | None = None,
    dynamic_causal: torch.Tensor | None = None,
    num_splits: int = 0,
) -> None:
    """Write ``out`` [tokens, heads, value_head_size]; see csrc/cuda/attention/attention.h.

    ``query`` [tokens, heads, head_size]; ``key`` and ``value`` [blocks, block_size, kv_heads,
    head_size] with ``block_table`` int32 [requests, pages] and ``seq_lens``, or [keys, kv_heads,
    head_size] with ``key_start_loc`` int32 [requests + 1]; ``query_start_loc`` int32
    [requests + 1]; ``alibi_slopes`` [heads] or [requests, heads]; ``sinks`` [heads]; ``k_scale``
    and ``v_scale`` of float8 (or uint8) caches, one value or [requests, kv_heads]; the log-sum-exp
    ``softmax_lse`` float32 [heads, tokens] is written where given; ``dynamic_causal`` bool
    [requests]. Computed in float32 (float64 stays).

    Keys beyond the pages of ``block_table`` are none, and a block number that ``key`` has not gives
    the request an unspecified result, and so does one longer than ``max_query_len`` or
    ``max_seq_len``; ``query_start_loc`` and ``key_start_loc`` are trusted.

    Raises:
        RuntimeError: ``key`` has no blocks, but ``max_seq_len`` is above 0.
    """
    if block_table is not None and key.shape[0] == 0 and max_seq_len > 0:
        raise RuntimeError(
            f"varlen_attention: key has no blocks, want some for the {max_seq_len} keys of "
            "max_seq_len"
        )
    wide = torch.promote_types(query.dtype, torch.float32)
    if key.dtype == torch.uint8:
        key, value = key.view(torch.float8_e4m3fn), value.view(torch.float8_e4m3fn)
    kv_heads, heads = key.shape[-2], query.shape[1]
    group = heads // kv_heads
    starts = query_start_loc.tolist()
    firsts = [0] * len(starts) if key_start_loc is None else key_start_loc.tolist()
    lengths = [b - a for a, b in pairwise(firsts)] if seq_lens is None else seq_lens.tolist()
    for index in range(len(starts) - 1):
        begin, end = starts[index], starts[index + 1]
        queries = end - begin
        if queries == 0:
            continue
        length = lengths[index]
        table = None if block_table is None else block_table[index]
        if table is not None:
            length = min(length, len(table) * key.shape[1] if key.shape[0] else 0)
        keys, values = (
            _keys(cache, firsts[index], length, table).to(wide) for cache in (key, value)
        )
        position = torch.arange(length - queries, length, device=query.device).unsqueeze(1)
        distance = torch.arange(length, device=query.device).unsqueeze(0) - position
        is_causal = causal if dynamic_causal is None else bool(dynamic_causal[index])
        visible = torch.ones_like(distance, dtype=torch.bool)
        if is_causal:
            visible &= distance <= 0
        if window_left >= 0:
            visible &= distance >= -window_left
        if window_right >= 0:
            visible &= distance <= window_right
        # What no query sees may never have been written.
        unseen = ~visible.any(0).view(-1, 1, 1)
        keys, values = keys.masked_fill(unseen, 0.0), values.masked_fill(unseen, 0.0)
        grouped = query[begin:end].to(wide).reshape(queries, kv_heads, group, query.shape[2])
        logits = torch.einsum("qhgd,khd->qhgk", grouped, keys) * scale
        logits = logits * torch.as_tensor(_scale(k_scale, index)).to(logits).unsqueeze(-1)
        if softcap > 0:
            logits = softcap * torch.tanh(logits / softcap)
        if alibi_slopes is not None:
            slopes = alibi_slopes[index] if alibi_slopes.dim() == 2 else alibi_slopes
            bias = slopes.to(wide).view(1, kv_heads, group, 1) * distance.view(queries, 1, 1, -1)
            logits = logits + bias
        logits = logits.masked_fill(~visible.view(queries, 1, 1, length), -math.inf)
        if sinks is not None:
            sink = sinks.to(wide).view(1, kv_heads, group, 1).expand(queries, -1, -1, 1)
            logits = torch.cat((logits, sink), -1)
        lse = torch.logsumexp(logits, -1)
        # A row without a visible key (and sink) is 0/0 here.
        weights = (logits - lse.unsqueeze(-1)).exp().nan_to_num(0.0)[..., :length]
        result = torch.einsum("qhgk,khd->qhgd", weights, values)
        result = result * torch.as_tensor(_scale(v_scale, index)).to(result).unsqueeze(-1)
        out[begin:end] = result.flatten(1, 2).to(out.dtype)
        if softmax_lse is not None:
            softmax_lse[:, begin:end] = lse.flatten(1, 2).t().to(softmax_lse.dtype)


def merge_attn_states(
    output: torch.Tensor,
    output_lse: torch.Tensor | None,
    prefix_output: torch.Tensor,
    prefix_lse: torch.Tensor,
    suffix_output: torch.Tensor,
    suffix_lse: torch.Tensor,
    prefill_tokens_with_context: int | None = None,
    output_scale: torch.Tensor | None = None,
) -> None:
    """Merge two partial results over disjoint keys into ``output`` [tokens, heads, head_size].

    ``prefix_output`` and ``suffix_output`` likewise; the log-sum-exps [heads, tokens], where both
    infinities mean that there are no keys. Tokens from ``prefill_tokens_with_context`` on copy the
    suffix (None or -1: no tokens). With ``output_scale`` (one value) ``output`` is float8_e4m3fn
    and holds the result over the scale. Section 2.2 of Ye et al. 2025 (FlashInfer).
    """
    tokens = output.shape[0]
    count = prefill_tokens_with_context
    merged = tokens if count is None or count < 0 else count
    wide = torch.promote_types(prefix_output.dtype, torch.float32)
    prefix, suffix = prefix_output.to(wide), suffix_output.to(wide)
    lse = torch.stack((prefix_lse, suffix_lse)).to(wide)
    lse = lse.masked_fill(lse.isinf(), -math.inf)
    total = torch.logsumexp(lse, 0)
    weights = (lse - total).exp()
    # Without any keys the prefix stands, which is zeros then.
    weights[0].masked_fill_(total.isinf(), 1.0)
    weights[1].masked_fill_(total.isinf(), 0.0)
    weights[0, :, merged:] = 0.0
    weights[1, :, merged:] = 1.0
    total[:, merged:] = suffix_lse[:, merged:].to(wide)
    factors = weights.transpose(1, 2).unsqueeze(-1)
    # A side without weight may hold anything.
    result = torch.where(factors[0] > 0, prefix * factors[0], 0.0)
    result = result + torch.where(factors[1] > 0, suffix * factors[1], 0.0)
    if output_scale is not None:
        limit = torch.finfo(torch.float8_e4m3fn).max
        result = (result / output_scale.to(wide)).clamp(-limit, limit)
    output.copy_(result.to(output.dtype))
    if output_lse is not None:
        output_lse.copy_(total)
