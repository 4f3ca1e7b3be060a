"""DeepSeek-V4: norm and rotation of queries, rotation of latents and their way into the cache.

Heads have 512 elements, of which the last ``cos_sin_cache.shape[1]`` are rotated, neighbours with
each other. ``kv``: [tokens, 512]; ``position_ids``: int64.
"""

from __future__ import annotations

import torch

from vllm_kernels.reference.paged import kept_slots
from vllm_kernels.reference.qkv.steps import (
    as_cached,
    exponents,
    halves,
    normed,
    rotated,
    scaled,
    tiles,
)

_HEAD, _TILED, _CHUNK = 512, 448, 16
_LEAST = 1e-4


def _turned(
    heads: torch.Tensor, position_ids: torch.Tensor, cos_sin_cache: torch.Tensor
) -> torch.Tensor:
    first = heads.shape[-1] - cos_sin_cache.shape[1]
    return rotated(heads, position_ids, *halves(cos_sin_cache), first, False)


def _latents(
    kv: torch.Tensor, position_ids: torch.Tensor, cos_sin_cache: torch.Tensor
) -> torch.Tensor:
    return _turned(kv.unsqueeze(1), position_ids, cos_sin_cache).squeeze(1).to(kv.dtype)


def _insert_packed(
    latents: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    block_size: int,
    kv_mxfp8: bool,
) -> None:
    """The cache of bytes: of a slot, or values of all slots and then their exponents."""
    blocks = k_cache.shape[0]
    flat = k_cache if k_cache.ndim == 2 else k_cache.flatten(1)
    kept, block, slot = kept_slots(slot_mapping, len(latents), blocks, block_size)
    x = latents[kept]
    if kv_mxfp8:
        values, power = tiles(x, 32, _LEAST)
        entries = flat[:, : block_size * 528].view(blocks, block_size, 528)
        entries[block, slot] = torch.cat((values.view(torch.uint8), exponents(power)), -1)
        return
    values, power = tiles(x[:, :_TILED], 64, _LEAST)
    rest = x[:, _TILED:].contiguous().view(torch.uint8)
    entries = flat[:, : block_size * 576].unflatten(1, (block_size, 576))
    powers = flat[:, block_size * 576 : block_size * 584].unflatten(1, (block_size, 8))
    entries[block, slot] = torch.cat((values.view(torch.uint8), rest), -1)
    powers[block, slot] = torch.nn.functional.pad(exponents(power), (0, 1))


def _insert_rows(
    latents: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    scale: torch.Tensor | None,
) -> None:
    """A cache [blocks, block_size, 512] of the rows' dtype or of float8."""
    kept, block, slot = kept_slots(slot_mapping, len(latents), *k_cache.shape[:2])
    kind = "auto" if k_cache.dtype == latents.dtype else "fp8"
    k_cache[block, slot] = as_cached(latents[kept], k_cache, kind, scale)


def fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert(
    q: torch.Tensor,
    kv: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    position_ids: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    eps: float,
    cache_block_size: int,
    apply_q_norm: bool = True,
) -> None:
    """``q`` [tokens, heads, 512] in place, ``kv`` into a cache of the same dtype."""
    heads = normed(q, eps) if apply_q_norm else q
    q.copy_(_turned(heads, position_ids, cos_sin_cache))
    _insert_rows(_latents(kv, position_ids, cos_sin_cache), k_cache, slot_mapping, None)


def fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert(
    q: torch.Tensor,
    kv: torch.Tensor,
    q_fp8: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    position_ids: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    fp8_scale: torch.Tensor,
    q_fp8_scale_inv: torch.Tensor,
    eps: float,
    cache_block_size: int,
    apply_q_norm: bool = True,
) -> None:
    """``q_fp8`` gets the queries times ``q_fp8_scale_inv``, a float8 cache ``kv / fp8_scale``."""
    heads = normed(q, eps) if apply_q_norm else q
    q_fp8.copy_(scaled(_turned(heads, position_ids, cos_sin_cache), q_fp8_scale_inv))
    _insert_rows(_latents(kv, position_ids, cos_sin_cache), k_cache, slot_mapping, fp8_scale)


def fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
    q_in: torch.Tensor,
    kv: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    position_ids: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    q_head_padded: int,
    eps: float,
    cache_block_size: int,
    apply_q_norm: bool = True,
    kv_mxfp8: bool = False,
    apply_q_rope: bool = True,
    is_q_interleaved: bool = False,
) -> torch.Tensor:
    """The queries with heads of zeros behind them, and ``kv`` into a cache of tiles of float8.

    Args:
        q_in: [tokens, heads, 512].
        k_cache: uint8, [blocks, bytes] or [blocks, block_size, bytes].
        q_head_padded: Heads of the result; 0: only the cache is written.
        kv_mxfp8: 528 bytes a slot: 512 values, and the exponent of each 32 of them. Else 576 bytes
            a slot, 448 values and 64 of the rows' dtype, and behind all slots 8 bytes for each: the
            exponent of each 64, and 0.
        is_q_interleaved: Element d of head h of q_in and of the result is
            (d / 16 * heads + h) * 16 + d % 16 of the token's.
    """
    latents = _latents(kv, position_ids, cos_sin_cache)
    _insert_packed(latents, k_cache, slot_mapping, cache_block_size, kv_mxfp8)
    tokens, count = q_in.shape[:2]
    out = q_in.new_zeros((tokens, q_head_padded, _HEAD))
    if q_head_padded == 0:
        return out
    heads = q_in
    if is_q_interleaved:
        chunks = q_in.reshape(tokens, _HEAD // _CHUNK, count, _CHUNK)
        heads = chunks.transpose(1, 2).reshape(q_in.shape)
    if apply_q_norm:
        heads = normed(heads, eps)
    if apply_q_rope:
        heads = _turned(heads, position_ids, cos_sin_cache)
    out[:, :count] = heads.to(q_in.dtype)
    if is_q_interleaved:
        chunks = out.view(tokens, q_head_padded, _HEAD // _CHUNK, _CHUNK)
        out = chunks.transpose(1, 2).reshape(out.shape)
    return out


def fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert_out(
    q_in: torch.Tensor,
    kv: torch.Tensor,
    q_out: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    position_ids: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    q_head_padded: int,
    eps: float,
    cache_block_size: int,
) -> None:
    """The same into ``q_out`` [tokens, q_head_padded, 512]."""
    q_out.copy_(
        fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
            q_in,
            kv,
            k_cache,
            slot_mapping,
            position_ids,
            cos_sin_cache,
            q_head_padded,
            eps,
            cache_block_size,
        )
    )


def fused_deepseek_v4_kv_rope_insert(
    kv: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    position_ids: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    cache_block_size: int,
    fp8_scale: torch.Tensor | None = None,
    kv_mxfp8: bool = False,
) -> None:
    """``kv`` alone, into a cache whose dtype tells the format: uint8 as of ``quant_insert``."""
    latents = _latents(kv, position_ids, cos_sin_cache)
    if k_cache.dtype == torch.uint8:
        _insert_packed(latents, k_cache, slot_mapping, cache_block_size, kv_mxfp8)
    else:
        _insert_rows(latents, k_cache, slot_mapping, fp8_scale)
