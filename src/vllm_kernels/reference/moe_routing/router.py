"""The product of few tokens with a router's float32 weights."""

from __future__ import annotations

import torch


def fp32_router_gemm(output: torch.Tensor, mat_a: torch.Tensor, mat_b: torch.Tensor) -> None:
    """Write ``mat_a`` [tokens, hidden] times ``mat_b`` [experts, hidden] transposed, as float32.

    ``mat_a`` is float32 or bfloat16, ``mat_b`` float32. The engine asks for it by shape, without
    asking whether there is a kernel.
    """
    torch.mm(mat_a.to(torch.float32), mat_b.t(), out=output)
