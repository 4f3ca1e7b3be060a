"""Inputs and outputs of the tests of routing and ordering."""

from __future__ import annotations

import torch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
POISON = -77


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def numbers(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.full(shape, POISON, dtype=torch.int64, device="cuda").to(dtype)


def logits(tokens: int, experts: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of distinct values far enough apart that rounding does not change their order."""
    steps = torch.rand(tokens, experts, device="cuda").argsort(-1)
    return ((steps - experts / 2) * (8.0 / experts)).to(dtype)


class Routed:
    """The outputs of a routing op, poisoned."""

    def __init__(self, tokens: int, topk: int, indices: torch.dtype = torch.int32) -> None:
        self.weights = torch.full((tokens, topk), float("nan"), device="cuda")
        self.indices = torch.empty(tokens, topk, dtype=indices, device="cuda")
        self.rows = numbers(tokens, topk)

    def all(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.weights, self.indices, self.rows

    def check(self, other: Routed) -> None:
        assert torch.equal(self.indices.long(), other.indices.long())
        assert torch.equal(self.rows, other.rows)
        torch.testing.assert_close(self.weights, other.weights, rtol=2e-5, atol=1e-7)
