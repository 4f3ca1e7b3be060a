"""Activation functions, plain and gated ("GLU Variants Improve Transformer", Shazeer 2020).

Gated: ``input`` [..., 2 d] of a floating dtype, ``out`` [..., d] of the same; the activated first
half is rounded to that dtype before the product with the second. Plain: ``out`` as ``input``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own convention


def _gated(
    out: torch.Tensor, input: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    gate, up = input.chunk(2, dim=-1)
    out.copy_(activation(gate) * up)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def silu_and_mul(result: torch.Tensor, input: torch.Tensor) -> None:
    """``result = silu(gate) * up``, silu(x) = x / (1 + e^-x)."""
    _gated(result, input, F.silu)


def gelu_and_mul(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = gelu(gate) * up``, gelu(x) = x (1 + erf(x / sqrt 2)) / 2."""
    _gated(out, input, F.gelu)


def gelu_tanh_and_mul(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = gelu(gate) * up`` with the tanh approximation of gelu."""
    _gated(out, input, _gelu_tanh)


def gelu_new(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``."""
    out.copy_(_gelu_tanh(input))


def gelu_fast(out: torch.Tensor, input: torch.Tensor) -> None:
    """``gelu_new`` with the cubic factored: the same function."""
    out.copy_(_gelu_tanh(input))


def gelu_tanh(out: torch.Tensor, input: torch.Tensor) -> None:
    """``gelu_new`` under PyTorch's name for it."""
    out.copy_(_gelu_tanh(input))


def gelu_quick(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = x / (1 + e^(-1.702 x))``."""
    x = input.float()
    out.copy_(x * torch.sigmoid(1.702 * x))
