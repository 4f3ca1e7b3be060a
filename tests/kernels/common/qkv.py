"""Calls of the ops of the family ``qkv`` and what they give, computed in float64.

``call(op, *arguments)`` is a kernel on a GPU, an emulated one, or a reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[..., torch.Tensor | None]

MAX_POSITION = 97
FLOAT8 = torch.float8_e4m3fn
# One rounding of the result; sums that cancel in the rotation are off by float32's own roundings.
RTOL = {torch.bfloat16: 2**-8 * 1.02, torch.float16: 2**-11 * 1.02}
ATOL = 2e-6


@dataclass(frozen=True)
class On:
    """Where and of which dtype tensors are made."""

    device: str
    dtype: torch.dtype

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape).to(self.dtype).to(self.device)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """NaN, so that an element that is not written is found; bytes of 165."""
        kind = dtype or self.dtype
        if kind == torch.uint8:
            return torch.full(shape, 165, dtype=kind, device=self.device)
        return torch.full(shape, float("nan"), device=self.device).to(kind)

    def angles(self, pairs: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        rates = 10000.0 ** -(torch.arange(pairs) / pairs)
        turns = torch.outer(torch.arange(float(MAX_POSITION)), rates)
        return torch.cat((turns.cos(), turns.sin()), -1).to(dtype).to(self.device)

    def positions(self, tokens: int) -> torch.Tensor:
        """Some of which have no angles."""
        found = torch.randint(0, MAX_POSITION, (tokens,))
        found[5::7], found[6::7] = MAX_POSITION, -1
        return found.to(self.device)

    def slots(self, tokens: int, count: int) -> torch.Tensor:
        """Of all tokens but the last two of many; some are not there."""
        found = torch.randperm(count)[:tokens]
        found[2::5], found[3::11] = -1, count
        return found[: max(tokens - 2, min(tokens, 2))].to(self.device)

    def scale(self, value: float) -> torch.Tensor:
        return torch.tensor([value], device=self.device)


def normed(heads: torch.Tensor, eps: float, weight: torch.Tensor | None = None) -> torch.Tensor:
    """In float64; ``weight`` as it is multiplied."""
    wide = heads.double()
    wide = wide * (wide.square().mean(-1, keepdim=True) + eps) ** -0.5
    return wide if weight is None else wide * weight.double()


def rotated(
    heads: torch.Tensor, positions: torch.Tensor, cache: torch.Tensor, first: int, neox: bool
) -> torch.Tensor:
    """Of [tokens, heads, width], in float64."""
    pairs = cache.shape[1] // 2
    out = heads.double().clone()
    for token, position in enumerate(positions.tolist()[: len(out)]):
        if not 0 <= position < len(cache):
            continue
        cos, sin = cache[position].double().split(pairs)
        low = torch.arange(pairs) if neox else 2 * torch.arange(pairs)
        high = low + pairs if neox else low + 1
        x, y = out[token, :, first + low].clone(), out[token, :, first + high].clone()
        out[token, :, first + low] = x * cos - y * sin
        out[token, :, first + high] = y * cos + x * sin
    return out


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype in RTOL
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=RTOL[actual.dtype], atol=ATOL
    )


def close8(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Float8 of ``expected``, saturated; a step apart where it lies between two of them."""
    kind = actual.dtype
    limit, bits = torch.finfo(kind).max, 3 if kind == FLOAT8 else 2
    wanted = expected.double().clamp(-limit, limit)
    # Half a step of float8, and what a rounding to 16 bits before it moves.
    rtol, atol = 2.0**-bits / 2 * 1.08, float(torch.finfo(kind).smallest_normal) * 2.0**-bits
    torch.testing.assert_close(actual.double(), wanted, rtol=rtol, atol=atol)


def placed(slots: torch.Tensor, tokens: int, count: int) -> list[tuple[int, int]]:
    """Token and slot of those that are written."""
    found = slots.tolist()[:tokens]
    return [(token, slot) for token, slot in enumerate(found) if 0 <= slot < count]


def check_rows(
    rows: torch.Tensor,
    before: torch.Tensor,
    expected: torch.Tensor,
    slots: torch.Tensor,
    check: Callable[[torch.Tensor, torch.Tensor], None] = close,
) -> None:
    """Rows [slots, ...] of a cache; those that no token has are as they were."""
    written = placed(slots, len(expected), len(rows))
    others = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for token, slot in written:
        check(rows[slot], expected[token])
        others[slot] = False
    assert torch.equal(_bytes(rows)[others], _bytes(before)[others])


def _bytes(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.uint8)


def tiled(values: torch.Tensor, powers: torch.Tensor, x: torch.Tensor, width: int) -> None:
    """Float8 ``values`` [n] and the ``powers`` of tiles stand for ``x``."""
    parts = x.double().unflatten(-1, (-1, width))
    most = parts.abs().amax(-1).clamp_min(1e-4)
    assert bool((torch.frexp(powers).mantissa == 0.5).all())
    # The least power of two that keeps the tile within 448.
    assert bool((most / powers.double() <= 448).all())
    assert bool((most / powers.double() > 223.9).all())
    close8(values.unflatten(-1, (-1, width)), parts / powers.double().unsqueeze(-1))


def cache_values(cache: torch.Tensor, kind: str) -> torch.Tensor:
    """A cache of that ``kv_cache_dtype`` as numbers."""
    if kind == "auto":
        return cache
    return cache.view(torch.float8_e5m2 if kind == "fp8_e5m2" else FLOAT8)
