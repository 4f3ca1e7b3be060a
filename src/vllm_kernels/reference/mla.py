"""Multi-head latent attention in its absorbed form (https://arxiv.org/abs/2405.04434)."""

from __future__ import annotations

import torch

LATENT = 512  # columns of a key that are its value too
SCALE_GROUP = 128


def latent_keys(cache: torch.Tensor) -> torch.Tensor:
    """Keys [blocks * slots, 576], float32, of a cache as ``sparse_mla_attention`` takes it.

    Dequantised ones are rounded to bfloat16, as ``cp_gather_and_upconvert_fp8_kv_cache`` does.
    """
    flat = cache.flatten(0, 1)
    if cache.dtype == torch.bfloat16:
        return flat.float()
    parts = flat.view(torch.uint8)
    values = parts[:, :LATENT].contiguous().view(torch.float8_e4m3fn).float()
    scales = parts[:, LATENT : LATENT + 16].contiguous().view(torch.float32)
    rope = parts[:, LATENT + 16 :].contiguous().view(torch.bfloat16).float()
    values = values * scales.repeat_interleave(SCALE_GROUP, -1)
    return torch.cat([values.bfloat16().float(), rope], -1)


def sparse_mla_attention(
    out: torch.Tensor,
    lse: torch.Tensor,
    max_logits: torch.Tensor | None,
    query: torch.Tensor,
    cache: torch.Tensor,
    indices: torch.Tensor,
    topk_length: torch.Tensor | None,
    attn_sink: torch.Tensor | None,
    scale: float,
) -> None:
    """Write ``out`` [batch, queries, heads, 512]; see csrc/cuda/mla/mla.h."""
    keys = latent_keys(cache)
    position = torch.arange(indices.shape[-1], device=indices.device)
    valid = (indices >= 0) & (indices < keys.shape[0])
    if topk_length is not None:
        valid &= position < topk_length.view(-1, 1, 1)
    for entry in range(query.shape[0]):
        for token in range(query.shape[1]):
            chosen = keys[indices[entry, token][valid[entry, token]].long()]
            logits = query[entry, token].float() @ chosen.T * scale
            if logits.shape[-1] == 0:
                out[entry, token] = 0
                lse[entry, :, token] = torch.inf
                if max_logits is not None:
                    max_logits[entry, :, token] = -torch.inf
                continue
            sums = logits.logsumexp(-1)
            lse[entry, :, token] = sums
            if max_logits is not None:
                max_logits[entry, :, token] = logits.amax(-1)
            if attn_sink is not None:
                sums = torch.logaddexp(sums, attn_sink)
            weights = (logits - sums.unsqueeze(-1)).exp()
            out[entry, token] = (weights @ chosen[:, :LATENT]).to(out.dtype)


def mla_attention(
    out: torch.Tensor,
    lse: torch.Tensor,
    query: torch.Tensor,
    cache: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    schedule: torch.Tensor,
    scale: float,
    causal: bool,
    query_scale: torch.Tensor | None = None,
    cache_scale: torch.Tensor | None = None,
) -> None:
    """Write ``out`` [batch, queries, heads, 512]; see csrc/cuda/mla/mla.h."""
    batch, queries = query.shape[:2]
    slots = cache.shape[1]
    query_unit, cache_unit = (
        1.0 if unit is None else unit.item() for unit in (query_scale, cache_scale)
    )
    for entry in range(batch):
        length = min(int(seq_lens[entry]), block_table.shape[1] * slots)
        position = torch.arange(max(0, length), device=query.device)
        blocks = block_table[entry, position // slots].long()
        there = (blocks >= 0) & (blocks < cache.shape[0])
        rows = cache.view(torch.uint8) if cache.dtype.itemsize == 1 else cache
        found = rows[blocks.clamp(0, cache.shape[0] - 1), position % slots]
        keys = found.view(cache.dtype).float() * cache_unit
        for token in range(queries):
            seen = there.clone()
            if causal:
                seen &= position < length - (queries - 1 - token)
            chosen = keys[seen]
            logits = query[entry, token].float() * query_unit @ chosen.T * scale
            if chosen.shape[0] == 0:
                out[entry, token] = 0
                lse[entry, :, token] = torch.inf
                continue
            sums = logits.logsumexp(-1)
            lse[entry, :, token] = sums
            weights = (logits - sums.unsqueeze(-1)).exp()
            out[entry, token] = (weights @ chosen[:, :LATENT]).to(out.dtype)


def mla_schedule(seq_lens: torch.Tensor, queries: int, heads: int, max_keys: int) -> torch.Tensor:
    """One part with all keys: [[0, 0], [batch, 0]], int32; see csrc/cuda/mla/mla.h."""
    return seq_lens.new_tensor([[0, 0], [seq_lens.shape[0], 0]])
