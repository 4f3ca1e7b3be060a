"""Floats of 4 bits, which PyTorch has no arithmetic for."""

from __future__ import annotations

import torch

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def e2m1(codes: torch.Tensor) -> torch.Tensor:
    """float4_e2m1fn (OCP Microscaling Formats, 2023) of integers 0 to 15, as float32."""
    signed = [*_MAGNITUDES, *(-value for value in _MAGNITUDES)]
    return torch.tensor(signed, device=codes.device)[codes.long()]
