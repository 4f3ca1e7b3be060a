from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("rms_norm")
def _rms_norm(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, weight = torch.randn(5, 131, dtype=dtype), torch.randn(131, dtype=dtype)
    out = torch.empty_like(x)
    ops.rms_norm(out, x, weight, 1e-6)
    return [out]


@check("fused_add_rms_norm")
def _fused_add_rms_norm(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, residual = torch.randn(5, 131, dtype=dtype), torch.randn(5, 131, dtype=dtype)
    ops.fused_add_rms_norm(x, residual, torch.randn(131, dtype=dtype), 1e-6)
    return [x, residual]
