"""References of the root-mean-square norm (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch


def _normed(wide: torch.Tensor, dtype: torch.dtype, epsilon: float) -> torch.Tensor:
    """The float32 rows over their root mean square, rounded to ``dtype`` before any weight."""
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(dtype)


def rms_norm(
    result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None, epsilon: float
) -> None:
    """result = input * rsqrt(mean(input^2) + epsilon) * weight, over the last dimension.

    Args:
        result: [..., hidden], the input's dtype; written.
        input: [..., hidden], float32, bfloat16 or float16.
        weight: [hidden] of the input's dtype, or None for 1.
        epsilon: Added to the mean square.
    """
    normed = _normed(input.float(), input.dtype, epsilon)
    result.copy_(normed if weight is None else normed * weight)


def fused_add_rms_norm(
    input: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor | None, epsilon: float
) -> None:
    """residual += input, then input = rms_norm(residual), both in place.

    The norm sees the sum before it is rounded to the residual's dtype.

    Args:
        input: [..., hidden], float32, bfloat16 or float16; overwritten.
        residual: The shape and dtype of ``input``; overwritten.
        weight: [hidden] of the input's dtype, or None for 1.
        epsilon: Added to the mean square.
    """
    total = input.float() + residual.float()
    normed = _normed(total, input.dtype, epsilon)
    residual.copy_(total)
    input.copy_(normed if weight is None else normed * weight)
