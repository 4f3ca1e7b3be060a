"""Products of few tokens with a small matrix, which the engine asks for by shape, not by need.

It does so without asking whether there is a kernel. PyTorch's product does the same.
"""

from __future__ import annotations

import torch


def _product(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """``output = mat_a @ mat_b``, rounded once to ``output``'s type."""
    if output.dtype == mat_a.dtype == mat_b.dtype:
        torch.mm(mat_a, mat_b, out=output)
    else:
        output.copy_(mat_a.to(torch.float32) @ mat_b.to(torch.float32))


def dsv3_fused_a_gemm(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """Write ``mat_a`` [tokens, hidden] times ``mat_b`` [hidden, out], both bfloat16."""
    _product(output, mat_a, mat_b)


def dsv3_router_gemm(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """Write ``mat_a`` [tokens, hidden] times ``mat_b`` [experts, hidden] transposed.

    ``output`` is bfloat16 or float32.
    """
    _product(output, mat_a, mat_b.t())


def fp32_router_gemm(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """As ``dsv3_router_gemm`` with float32 weights ``mat_b``; ``mat_a`` is float32 or bfloat16."""
    _product(output, mat_a, mat_b.t())
