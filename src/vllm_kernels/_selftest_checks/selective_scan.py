from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


def _inputs(tokens: int, dtype: torch.dtype) -> list[Tensor]:
    """x, B, C and z of 4 heads in 2 groups."""
    x, z = torch.randn(2, tokens, 4, 37).to(dtype)
    b, c = torch.randn(2, tokens, 2, 24).to(dtype)
    return [x, b, c, z]


@check("mamba_chunk_scan_fwd_cpu")
def _prompts(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Sequences of 19, no and one token; one decay a head, and one an element."""
    x, b, c, z = _inputs(20, dtype)
    starts, results = torch.tensor([0, 19, 19, 20], dtype=torch.int32), []
    for a in (-torch.rand(4), -torch.rand(4, 37, 24)):
        out, states = torch.zeros_like(x), torch.randn(3, 4, 37, 24)
        dt = torch.rand(20, 4)
        ops.mamba_chunk_scan_fwd_cpu(out, states, x, dt, a, b, c, torch.rand(4), z, starts)
        results += [out, states]
    return results


@check("selective_state_update_cpu")
def _next_tokens(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Two sequences of one token, then of drafted ones."""
    a, bias, results = -torch.rand(4)[:, None, None].expand(4, 37, 24), torch.rand(4), []
    for count, accepted in ((1, None), (2, torch.tensor([2, 1], dtype=torch.int32))):
        x, b, c, z = _inputs(2 * count, dtype)
        out, states = torch.zeros_like(x), torch.randn(6, 4, 37, 24, dtype=dtype)
        slots = torch.tensor([[1, 4], [3, 5]], dtype=torch.int32)
        starts = torch.tensor([0, count, 2 * count], dtype=torch.int32)
        dt = torch.randn(2 * count, 4).to(dtype)[:, :, None].expand(-1, -1, 37)
        ops.selective_state_update_cpu(
            states, x, dt, a, b, c, None, z, bias[:, None].expand(-1, 37), True, slots, slots, 0,
            out, accepted, starts,
        )  # fmt: skip
        results += [out, states]
    return results
