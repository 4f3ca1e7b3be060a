"""rms_norm and fused_add_rms_norm against float64 PyTorch, per tier."""

from __future__ import annotations

import pytest
import torch

ops = torch.ops.vllm_kernels

# Two units in the last place of each dtype, relative; and the smallest normal, absolute.
TOLERANCE = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (1.6e-2, 1e-6), torch.float16: (2e-3, 1e-6)}


def reference(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    wide = x.double()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return y if weight is None else y * weight.double()


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4096), (7, 33), (3, 5, 127), (0, 64), (2, 8191)])
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(
    tier: str, dtype: torch.dtype, shape: tuple[int, ...], weighted: bool
) -> None:
    x = torch.randn(shape, dtype=dtype)
    weight = torch.randn(shape[-1], dtype=dtype) if weighted else None
    result = torch.full_like(x, float("nan"))
    ops.rms_norm(result, x, weight, 1e-6)
    check(result, reference(x, weight, 1e-6))
