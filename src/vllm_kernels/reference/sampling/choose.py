"""References of the choice of one token a row."""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = (0xFF51AFD7ED558CCD - (1 << 64), 0xC4CEB9FE1A85EC53 - (1 << 64))


def greedy_argmax(logits: torch.Tensor) -> torch.Tensor:
    """The place of each row's largest value, the first of equal ones; NaN counts as the largest.

    Args:
        logits: [rows, vocabulary], float32.

    Returns:
        [rows], int64.
    """
    largest = logits.amax(1, keepdim=True)
    hit = torch.where(largest.isnan(), logits.isnan(), logits == largest)
    return hit.to(torch.int8).argmax(1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finalizer of MurmurHash3 (Appleby 2011), of int64 taken as unsigned."""

    def fold(value: torch.Tensor) -> torch.Tensor:
        return value ^ ((value >> 33) & ((1 << 31) - 1))

    for factor in _FACTORS:
        x = fold(x) * factor
    return fold(x)


def fused_gumbel_argmax(logits: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """A token drawn from softmax(logits): argmax of logits plus Gumbel noise (Gumbel 1954).

    Args:
        logits: [rows, vocabulary], float32; tokens of -inf and NaN are never drawn.
        seeds: [rows], int64, which with the token's number determines its noise.

    Returns:
        [rows], int64; 0 where no token can be drawn.
    """
    key = _mix(seeds ^ _GOLDEN).unsqueeze(1)
    token = torch.arange(logits.shape[1], device=logits.device)
    bits = (_mix(key + token * _GOLDEN) >> 11) & ((1 << 53) - 1)
    uniform = (bits.double() + 0.5) * 2.0**-53
    noise = -torch.log(-torch.log1p(-uniform))
    best = []
    for row, added in zip(logits.double(), noise, strict=True):
        # Differences of logits first: beside a large one the noise would be lost.
        at = torch.where(row > float("-inf"), row, float("-inf"))
        top = at.max()
        near = at - top if top.isfinite() else torch.where(at == top, 0.0, float("-inf"))
        best.append((near + added).argmax() if top > float("-inf") else near.new_zeros(()).long())
    return torch.stack(best) if best else seeds.new_empty((0,))
