from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("cpu_gemm_wna16")
def _int4_matmul(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Symmetric and with zero points, in groups and in act-order, few rows and many."""
    depth, columns, groups = 160, 96, 5
    any_words = (-(2**31), 2**31)
    weight = torch.randint(*any_words, (columns // 16, 2 * depth)).to(torch.int32)
    zeros = torch.randint(*any_words, (groups, columns // 8)).to(torch.int32)
    order = (torch.randperm(depth) % groups).to(torch.int32)
    scales = torch.rand(groups, columns, dtype=dtype) / 64
    results = []
    for rows, zero, g_idx in ((1, None, None), (5, zeros, order), (37, zeros, None)):
        out = torch.empty(rows, columns, dtype=dtype)
        a, bias = torch.randn(rows, depth, dtype=dtype), torch.randn(columns, dtype=dtype)
        ops.cpu_gemm_wna16(a, weight, out, scales, zero, g_idx, bias, 8, "vec")
        results.append(out)
    return results
