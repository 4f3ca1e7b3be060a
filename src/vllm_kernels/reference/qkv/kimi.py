"""Kimi K3's latent attention: what decode and prefill read, and the latent cache.

``kv_c_normed``: [tokens, rank]; ``k_pe``: [tokens, rope]; a latent is the two side by side, in
``k_cache`` [blocks, cache_block_size, ...]. With positions and angles ``k_pe``, ``q_pe`` and the
last components of ``q`` are rotated, neighbours with each other.
"""

from __future__ import annotations

import torch

from vllm_kernels.reference.paged import kept_slots
from vllm_kernels.reference.qkv.steps import (
    halves,
    present,
    rotated,
    scaled,
    tiles,
)
from vllm_kernels.reference.quant import to_float8

# The bound of a tile's largest magnitude: its 448th part is still normal.
_LEAST = 448 * 2.0**-126


def _turned(
    heads: torch.Tensor, position_ids: torch.Tensor | None, cos_sin_cache: torch.Tensor | None
) -> torch.Tensor:
    """[tokens, heads, width], the last components rotated."""
    if cos_sin_cache is None:
        return heads
    first = heads.shape[-1] - cos_sin_cache.shape[1]
    positions = present(position_ids, "position_ids")
    return rotated(heads, positions, *halves(cos_sin_cache), first, False).to(heads.dtype)


def _insert(
    kv_c: torch.Tensor,
    k_pe: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    scale_inv: torch.Tensor | None = None,
    ds_mla: bool = False,
) -> None:
    kept, block, slot = kept_slots(slot_mapping, len(kv_c), *k_cache.shape[:2])
    both = torch.cat((kv_c[kept], k_pe[kept]), -1)
    if ds_mla:
        values, power = tiles(kv_c[kept], 128, _LEAST)
        parts = (values, power, k_pe[kept].contiguous())
        entry = torch.cat([part.view(torch.uint8) for part in parts], -1)
    else:
        entry = both if scale_inv is None else scaled(both, scale_inv)
    k_cache[block, slot] = entry.view(k_cache.dtype)


def _decode(
    ql_nope: torch.Tensor,
    q_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_pe: torch.Tensor,
    mqa_q: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    angles: tuple[torch.Tensor | None, torch.Tensor | None],
    scales: tuple[torch.Tensor, torch.Tensor] | None = None,
    ds_mla: bool = False,
) -> None:
    query = torch.cat((ql_nope, _turned(q_pe, *angles)), -1)
    mqa_q.copy_(query if scales is None else scaled(query, scales[0]))
    rotated_pe = _turned(k_pe.unsqueeze(1), *angles).squeeze(1)
    cache_scale = None if scales is None else scales[1]
    _insert(kv_c_normed, rotated_pe, k_cache, slot_mapping, cache_scale, ds_mla)


def _full_key(k_nope: torch.Tensor, k_pe: torch.Tensor) -> torch.Tensor:
    return torch.cat((k_nope, k_pe.unsqueeze(1).expand(-1, k_nope.shape[1], -1)), -1)


def fused_kimi_k3_mla_decode_q_concat_kv_cache_insert(
    ql_nope: torch.Tensor,
    q_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_pe: torch.Tensor,
    mqa_q: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    cache_block_size: int,
    position_ids: torch.Tensor | None = None,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """``mqa_q`` gets ``ql_nope`` and ``q_pe`` side by side, the cache the latents."""
    angles = (position_ids, cos_sin_cache)
    _decode(ql_nope, q_pe, kv_c_normed, k_pe, mqa_q, k_cache, slot_mapping, angles)


def fused_kimi_k3_mla_decode_q_concat_ds_mla_insert(
    ql_nope: torch.Tensor,
    q_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_pe: torch.Tensor,
    mqa_q: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    cache_block_size: int,
    position_ids: torch.Tensor | None = None,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """The same with entries of 656 bytes: 512 float8_e4m3fn, a power of two for each 128, k_pe."""
    angles = (position_ids, cos_sin_cache)
    _decode(
        ql_nope, q_pe, kv_c_normed, k_pe, mqa_q, k_cache, slot_mapping, angles, None, ds_mla=True
    )


def fused_kimi_k3_mla_decode_q_concat_kv_cache_fp8_insert(
    ql_nope: torch.Tensor,
    q_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_pe: torch.Tensor,
    mqa_q: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    q_scale_inv: torch.Tensor,
    cache_scale_inv: torch.Tensor,
    cache_block_size: int,
    position_ids: torch.Tensor | None = None,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """The same in float8_e4m3fn, the query and the latents times a scale each."""
    angles = (position_ids, cos_sin_cache)
    scales = (q_scale_inv, cache_scale_inv)
    _decode(ql_nope, q_pe, kv_c_normed, k_pe, mqa_q, k_cache, slot_mapping, angles, scales)


def _prefill(
    q: torch.Tensor,
    k_nope: torch.Tensor,
    k_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_out: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    angles: tuple[torch.Tensor | None, torch.Tensor | None],
    ds_mla: bool,
) -> None:
    rotated_pe = _turned(k_pe.unsqueeze(1), *angles).squeeze(1)
    q.copy_(_turned(q, *angles))
    k_out.copy_(_full_key(k_nope, rotated_pe))
    _insert(kv_c_normed, rotated_pe, k_cache, slot_mapping, ds_mla=ds_mla)


def fused_kimi_k3_mla_key_concat_kv_cache_insert(
    q: torch.Tensor,
    k_nope: torch.Tensor,
    k_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_out: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    cache_block_size: int,
    position_ids: torch.Tensor | None = None,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """``k_out`` gets ``k_nope`` and each head's ``k_pe``, the cache latents; ``q`` is rotated."""
    angles = (position_ids, cos_sin_cache)
    _prefill(q, k_nope, k_pe, kv_c_normed, k_out, k_cache, slot_mapping, angles, ds_mla=False)


def fused_kimi_k3_mla_key_concat_ds_mla_insert(
    q: torch.Tensor,
    k_nope: torch.Tensor,
    k_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    k_out: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    cache_block_size: int,
    position_ids: torch.Tensor | None = None,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """The same with entries of 656 bytes, as of the decode op."""
    angles = (position_ids, cos_sin_cache)
    _prefill(q, k_nope, k_pe, kv_c_normed, k_out, k_cache, slot_mapping, angles, ds_mla=True)


def fused_kimi_k3_mla_qkv_quant_kv_cache_fp8_insert(
    q: torch.Tensor,
    k_nope: torch.Tensor,
    k_pe: torch.Tensor,
    kv_c_normed: torch.Tensor,
    v: torch.Tensor,
    q_fp8: torch.Tensor,
    k_fp8: torch.Tensor,
    v_fp8: torch.Tensor,
    k_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    q_scale_inv: torch.Tensor,
    k_scale_inv: torch.Tensor,
    v_scale_inv: torch.Tensor,
    cache_scale_inv: torch.Tensor,
    cache_block_size: int,
    position_ids: torch.Tensor | None = None,
    cos_sin_cache: torch.Tensor | None = None,
) -> None:
    """Queries, full keys, values and latents as float8_e4m3fn, times a scale each."""
    angles = (position_ids, cos_sin_cache)
    rotated_pe = _turned(k_pe.unsqueeze(1), *angles).squeeze(1)
    q_fp8.copy_(scaled(_turned(q, *angles), q_scale_inv))
    k_fp8.copy_(scaled(_full_key(k_nope, rotated_pe), k_scale_inv))
    v_fp8.copy_(scaled(v, v_scale_inv))
    _insert(kv_c_normed, rotated_pe, k_cache, slot_mapping, cache_scale_inv)


def fused_kimi_k3_mla_kv_concat(
    k_nope: torch.Tensor, k_pe: torch.Tensor, k_out: torch.Tensor
) -> None:
    """``k_out`` gets ``k_nope`` and every head's ``k_pe``."""
    k_out.copy_(_full_key(k_nope, k_pe))


def fused_kimi_k3_mla_kv_concat_quant_fp8(
    k_nope: torch.Tensor,
    k_pe: torch.Tensor,
    v: torch.Tensor,
    k_fp8: torch.Tensor,
    v_fp8: torch.Tensor,
) -> None:
    """The same, and ``v``, as float8_e4m3fn; a ``k_pe`` of that type is copied."""
    pe = k_pe if k_pe.dtype == torch.float8_e4m3fn else to_float8(k_pe.float())
    width = k_nope.shape[-1]
    k_fp8[..., :width] = to_float8(k_nope.float())
    k_fp8[..., width:] = pe.unsqueeze(1)
    v_fp8.copy_(to_float8(v.float()))
