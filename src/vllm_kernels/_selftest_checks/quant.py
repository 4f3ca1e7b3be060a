from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("static_scaled_int8_quant")
def _static_quant(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, scale = torch.randn(5, 131, dtype=dtype), torch.tensor([0.02])
    results = []
    for azp in (None, torch.tensor([-7], dtype=torch.int32)):
        out = torch.empty(5, 131, dtype=torch.int8)
        ops.static_scaled_int8_quant(out, x, scale, azp)
        results.append(out)
    return results


@check("dynamic_scaled_int8_quant")
def _dynamic_quant(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(5, 131, dtype=dtype)
    results = []
    for azp in (None, torch.empty(5, 1, dtype=torch.int32)):
        out, scale = torch.empty(5, 131, dtype=torch.int8), torch.empty(5, 1)
        ops.dynamic_scaled_int8_quant(out, x, scale, azp)
        results += [out, scale]
    return results
