"""Reference of the Walsh-Hadamard transform (Tseng et al. 2024; Liu et al. 2024)."""

from __future__ import annotations

import torch


def hadacore_transform(x: torch.Tensor, inplace: bool) -> torch.Tensor:
    """``x H / sqrt(n)`` of each row of ``n`` elements, a power of two, H Sylvester's matrix.

    Args:
        x: [..., n], float32, bfloat16 or float16; computed in float32, rounded once.
        inplace: Write the result to ``x`` and return that.
    """
    width = x.shape[-1]
    rows = x.reshape(-1, width).float()
    apart = 1
    while apart < width:
        pairs = rows.view(-1, width // (2 * apart), 2, apart)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        rows = torch.stack((low + high, low - high), 2).view(-1, width)
        apart *= 2
    result = (rows * width**-0.5).to(x.dtype).view(x.shape)
    if not inplace:
        return result
    return x.copy_(result)
