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
