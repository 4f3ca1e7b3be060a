"""Rotary position embedding ("RoFormer", Su et al. 2021)."""

from __future__ import annotations

import torch


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
    rope_dim_offset: int = 0,
    inverse: bool = False,
) -> None:
    """Rotate components of every head of ``query`` and ``key`` in place, in float32.

    ``positions``: int64, any shape. ``query``, ``key``: [..., heads * head_size] or
    [..., heads, head_size], the leading dimensions counting the tokens of ``positions``.
    ``cos_sin_cache``: [max_position, rot_dim], half cosines, half sines. ``is_neox`` pairs
    component i with i + rot_dim / 2, else 2 i with 2 i + 1, from ``rope_dim_offset`` on.
    ``inverse`` negates the angle.
    """
    tokens = positions.numel()
    if tokens == 0:
        return
    rot_dim = cos_sin_cache.shape[-1]
    cos, sin = cos_sin_cache.index_select(0, positions.flatten()).float().chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), (-sin if inverse else sin).unsqueeze(1)
    for heads in (query, key):
        if heads is None:
            continue
        rotated = heads.reshape(tokens, -1, head_size)  # a copy where strides allow no view
        part = rotated[..., rope_dim_offset : rope_dim_offset + rot_dim]
        if is_neox:
            x, y = part.float().chunk(2, dim=-1)
        else:
            x, y = part[..., ::2].float(), part[..., 1::2].float()
        turned = (x * cos - y * sin, y * cos + x * sin)
        if is_neox:
            part.copy_(torch.cat(turned, dim=-1))
        else:
            part.copy_(torch.stack(turned, dim=-1).flatten(-2))
        if rotated.data_ptr() != heads.data_ptr():
            heads.copy_(rotated.view(heads.shape))


def fused_qk_norm_rope(
    qkv: torch.Tensor,
    num_heads_q: int,
    num_heads_k: int,
    num_heads_v: int,
    head_dim: int,
    eps: float,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
    position_ids: torch.Tensor,
    forced_token_heads_per_warp: int = -1,
) -> None:
    """Norm each head of the queries and keys of ``qkv``, then rotate it; in float32, in place.

    ``qkv``: [tokens, (num_heads_q + num_heads_k + num_heads_v) * head_dim]; the weights:
    [head_dim]; ``position_ids``: int64 [tokens]; ``cos_sin_cache`` as in ``rotary_embedding``, of
    at most head_dim columns. The last argument is a hint to the kernel.
    """
    keys = num_heads_q * head_dim
    values = keys + num_heads_k * head_dim
    query, key = qkv[:, :keys], qkv[:, keys:values]
    for heads, weight in ((query, q_weight), (key, k_weight)):
        wide = heads.float().reshape(len(heads), heads.shape[1] // head_dim, head_dim)
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()
        rotary_embedding(position_ids, wide, None, head_dim, cos_sin_cache.float(), is_neox)
        heads.copy_(wide.flatten(-2))
