"""Prompts of recurrences, some tokens at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

CHUNK = 64
CHUNKS_ONLY = 128  # tokens; beyond, token after token takes a second a call


def chunked(one: Callable[..., torch.Tensor], *rows: torch.Tensor) -> torch.Tensor:
    """`one` for chunk after chunk of the tokens of all ``rows``."""
    starts = range(0, len(rows[0]), CHUNK)
    return torch.cat([one(*(x[t : t + CHUNK] for x in rows)) for t in starts])
