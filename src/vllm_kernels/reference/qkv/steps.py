"""What the ops of this family are made of.

Heads are rows of [tokens, heads, width]; arithmetic is float32, and what is stored has been rounded
once to the rows' dtype. ``slot_mapping`` is int64 [n]: tokens from the n-th on, and those whose
slot the cache does not have, are not written.
"""

from __future__ import annotations

import torch

from vllm_kernels.reference import paged
from vllm_kernels.reference.paged import FLOAT8
from vllm_kernels.reference.quant import divided, next_power_of_two, to_float8

_PLAIN = ("auto", "bfloat16", "float16")


def present(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    """An optional argument that another one makes necessary.

    Raises:
        ValueError: It is absent.
    """
    if tensor is None:
        raise ValueError(f"{name} is None, want a tensor")
    return tensor


def normed(
    heads: torch.Tensor, eps: float, weight: torch.Tensor | None = None, bias: float = 0.0
) -> torch.Tensor:
    """``x / sqrt(mean(x^2) + eps) * (weight + bias)`` of each head, in float32."""
    wide = heads.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return wide if weight is None else wide * (weight.float() + bias)


def rotated(
    heads: torch.Tensor,
    positions: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    first: int,
    is_neox: bool,
) -> torch.Tensor:
    """The heads with the components from ``first`` on turned by the angles of their positions.

    A token whose position has no angles is left. ``cos``, ``sin``: [max_position, pairs].
    """
    tokens, pairs = heads.shape[0], cos.shape[1]
    out = heads.float().clone()
    if tokens == 0 or pairs == 0 or len(cos) == 0:
        return out
    place = positions[:tokens]
    known = ((place >= 0) & (place < len(cos))).view(-1, 1, 1)
    place = place.clamp(0, len(cos) - 1)
    c, s = cos[place].float().unsqueeze(1), sin[place].float().unsqueeze(1)
    part = out[..., first : first + 2 * pairs]
    x, y = part.chunk(2, -1) if is_neox else (part[..., ::2], part[..., 1::2])
    turned = (x * c - y * s, y * c + x * s)
    both = torch.cat(turned, -1) if is_neox else torch.stack(turned, -1).flatten(-2)
    part.copy_(torch.where(known, both, part))
    return out


def halves(cos_sin_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of a cache that has one behind the other."""
    cos, sin = cos_sin_cache.chunk(2, -1)
    return cos, sin


def as_cached(
    heads: torch.Tensor, cache: torch.Tensor, kv_cache_dtype: str, scale: torch.Tensor | None
) -> torch.Tensor:
    """Heads as a cache of that format holds them: as they are, or divided by ``scale``.

    Raises:
        NotImplementedError: It names no such format.
    """
    if kv_cache_dtype in _PLAIN:
        return heads
    if kv_cache_dtype not in FLOAT8:
        raise NotImplementedError(f"kv_cache_dtype is {kv_cache_dtype!r}, want auto or fp8")
    by = 1.0 if scale is None else scale.reshape(())
    return paged.to_float8(heads, by, FLOAT8[kv_cache_dtype]).view(cache.dtype)


def scaled(heads: torch.Tensor, scale_inv: torch.Tensor) -> torch.Tensor:
    """float8_e4m3fn of ``heads * scale_inv``."""
    return to_float8(heads.float() * scale_inv.reshape(()))


def tiles(x: torch.Tensor, width: int, least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """float8_e4m3fn of tiles of ``width`` elements, and the power of two of each.

    That is the least one that is not below max(max |x|, least) / 448.
    """
    parts = x.float().unflatten(-1, (-1, width))
    most = parts.abs().amax(-1, keepdim=True).clamp_min(least)
    power = next_power_of_two(divided(most, 448))
    return to_float8(parts / power).flatten(-2), power.squeeze(-1)


def exponents(power: torch.Tensor) -> torch.Tensor:
    """The bytes of powers of two: exponents, biased by 127."""
    return ((power.view(torch.int32) >> 23) & 255).to(torch.uint8)
