"""What ops that write into a paged cache have in common."""

from __future__ import annotations

import torch

# What names of a cache's dtype stand for.
FLOAT8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def to_float8(x: torch.Tensor, scale: torch.Tensor | float, dtype: torch.dtype) -> torch.Tensor:
    """``x / scale`` in float32, saturated, as float8."""
    limit = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-limit, limit).to(dtype)


def kept_slots(
    slot_mapping: torch.Tensor, tokens: int, blocks: int, block_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the tokens that have a slot: their index, block and slot within the block."""
    slots = slot_mapping[:tokens]
    kept = ((slots >= 0) & (slots < blocks * block_size)).nonzero().flatten()
    return kept, slots[kept] // block_size, slots[kept] % block_size
