"""Models whose projection holds queries, keys and values side by side."""

from __future__ import annotations

import torch

from vllm_kernels.reference.paged import kept_slots
from vllm_kernels.reference.qkv.steps import (
    as_cached,
    halves,
    normed,
    present,
    rotated,
)
from vllm_kernels.reference.quant import to_float8


def _heads(qkv: torch.Tensor, width: int, counts: tuple[int, ...]) -> list[torch.Tensor]:
    """Views [tokens, heads, width] of so many heads each, one behind the other."""
    found, first = [], 0
    for count in counts:
        part = qkv[:, first : first + count * width]
        found.append(part.unflatten(1, (count, width)))
        first += count * width
    return found


def _insert_pairs(
    keys: torch.Tensor,
    values: torch.Tensor,
    kv_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    kv_cache_dtype: str,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
) -> None:
    """Keys and values side by side in [blocks, heads, block_size, 2 * width]."""
    blocks, _, block_size, both = kv_cache.shape
    kept, block, slot = kept_slots(slot_mapping, len(keys), blocks, block_size)
    width = both // 2
    parts = ((keys, k_scale, 0), (values, v_scale, width))
    for heads, scale, first in parts:
        stored = as_cached(heads[kept], kv_cache, kv_cache_dtype, scale)
        kv_cache[block, :, slot, first : first + width] = stored


def fused_minimax_m3_qknorm_rope_kv_insert(
    qkv: torch.Tensor,
    q_norm_weight: torch.Tensor,
    k_norm_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    rotary_dim: int,
    eps: float,
    index_q_norm_weight: torch.Tensor | None,
    index_k_norm_weight: torch.Tensor | None,
    num_index_heads: int,
    slot_mapping: torch.Tensor | None,
    index_slot_mapping: torch.Tensor | None,
    kv_cache: torch.Tensor | None,
    index_cache: torch.Tensor | None,
    block_size: int,
    q_out: torch.Tensor | None,
    index_q_out: torch.Tensor | None,
    kv_cache_dtype: str,
    skip_index_branch: bool = False,
    q_fp8_out: torch.Tensor | None = None,
    q_fp8_scale: float = 1.0,
    kv_k_scale: torch.Tensor | None = None,
    kv_v_scale: torch.Tensor | None = None,
) -> None:
    """MiniMax-M3's heads of 128: queries and keys normed, times 1 + weight, and rotated (NeoX).

    ``qkv``: queries, keys, values and, with ``num_index_heads``, queries and the one key of the
    index; written in place, but that ``q_out`` and ``index_q_out`` get the queries instead. With
    ``q_fp8_out`` and no ``q_out`` the queries are written as float8 only. With ``kv_cache`` keys
    and values go there, and the index's key into ``index_cache``.
    """
    width, kind = 128, qkv.dtype
    counts = (num_heads, num_kv_heads, num_kv_heads, num_index_heads, int(num_index_heads > 0))
    queries, keys, values, index_queries, index_key = _heads(qkv, width, counts)

    def computed(heads: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = normed(heads, eps, weight, 1.0)
        return rotated(wide, positions, *halves(cos_sin_cache), 0, True).to(kind)

    done = computed(queries, q_norm_weight)
    if q_fp8_out is not None:
        by = torch.full((), q_fp8_scale, dtype=torch.float32, device=qkv.device)
        q_fp8_out.copy_(to_float8(done.float() / by).flatten(1))
    if q_out is not None:
        q_out.copy_(done.flatten(1))
    elif q_fp8_out is None:
        queries.copy_(done)
    keys.copy_(computed(keys, k_norm_weight))
    if kv_cache is not None:
        slots = present(slot_mapping, "slot_mapping")
        _insert_pairs(keys, values, kv_cache, slots, kv_cache_dtype, kv_k_scale, kv_v_scale)
    if num_index_heads == 0 or skip_index_branch:
        return
    done = computed(index_queries, present(index_q_norm_weight, "index_q_norm_weight"))
    if index_q_out is None:
        index_queries.copy_(done)
    else:
        index_q_out.copy_(_as(done, index_q_out.dtype).flatten(1))
    index_key.copy_(computed(index_key, present(index_k_norm_weight, "index_k_norm_weight")))
    if kv_cache is not None and index_cache is not None:
        own = slot_mapping if index_slot_mapping is None else index_slot_mapping
        slots = present(own, "index_slot_mapping")
        kept, block, slot = kept_slots(slots, len(qkv), *index_cache.shape[:2])
        index_cache[block, slot] = _as(index_key[kept, 0], index_cache.dtype)


def _as(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return to_float8(x.float()) if dtype == torch.float8_e4m3fn else x


def fused_muse_spark_qknorm_rope_kv_insert(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    eps: float,
    cos_sin_cache: torch.Tensor | None,
    rotary_dim: int,
    slot_mapping: torch.Tensor | None,
    kv_cache: torch.Tensor | None,
    block_size: int,
    kv_cache_dtype: str,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
    q_fp8_out: torch.Tensor | None = None,
    q_scale: torch.Tensor | None = None,
) -> None:
    """Muse Spark's queries and keys normed and, with ``cos_sin_cache``, rotated (GPT-J); in place.

    With ``q_fp8_out`` the queries go there, divided by ``q_scale``, and ``qkv`` keeps them. With
    ``kv_cache`` keys and values go there.
    """
    queries, keys, values = _heads(qkv, head_dim, (num_heads, num_kv_heads, num_kv_heads))

    def computed(heads: torch.Tensor) -> torch.Tensor:
        wide = normed(heads, eps)
        if cos_sin_cache is not None:
            wide = rotated(wide, positions, *halves(cos_sin_cache), 0, False)
        return wide.to(qkv.dtype)

    done = computed(queries)
    if q_fp8_out is None:
        queries.copy_(done)
    else:
        scale = done.new_ones((), dtype=torch.float32) if q_scale is None else q_scale.reshape(())
        q_fp8_out.copy_(to_float8(done.float() / scale).flatten(1))
    keys.copy_(computed(keys))
    if kv_cache is not None:
        slots = present(slot_mapping, "slot_mapping")
        _insert_pairs(keys, values, kv_cache, slots, kv_cache_dtype, k_scale, v_scale)


def fused_qknorm_rope_cache(
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    v_out: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    head_dim: int,
    num_q_heads: int,
    num_kv_heads: int,
    rotary_pairs: int,
    epsilon: float,
    norm_weight_bias: float,
    kv_cache_dtype: str = "auto",
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """Queries and keys normed, times weight + bias, rounded, then rotated (NeoX).

    All three go to outputs [tokens, heads * head_dim]; keys and values also to the caches [blocks,
    block_size, heads, head_dim]. ``cos``, ``sin``: [max_position, at least rotary_pairs].
    """
    queries, keys, values = _heads(qkv, head_dim, (num_q_heads, num_kv_heads, num_kv_heads))
    angles = cos[:, :rotary_pairs], sin[:, :rotary_pairs]

    def computed(heads: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rounded = normed(heads, epsilon, weight, norm_weight_bias).to(qkv.dtype)
        return rotated(rounded, positions, *angles, 0, True).to(qkv.dtype)

    q_out.copy_(computed(queries, q_weight).flatten(1))
    new_keys = computed(keys, k_weight)
    k_out.copy_(new_keys.flatten(1))
    v_out.copy_(values.flatten(1))
    kept, block, slot = kept_slots(slot_mapping, len(qkv), *k_cache.shape[:2])
    for heads, cache, scale in ((new_keys, k_cache, k_scale), (values, v_cache, v_scale)):
        cache[block, slot] = as_cached(heads[kept], cache, kv_cache_dtype, scale)
