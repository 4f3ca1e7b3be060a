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


@check("static_scaled_fp8_quant")
def _static_fp8(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """One scale, one a row, one a column and one a group."""
    x, results = torch.randn(6, 132, dtype=dtype), []
    for shape, groups in (((1,), None), ((6,), [1, -1]), ((132,), [-1, 1]), ((2, 11), [3, 12])):
        out = torch.empty(6, 132, dtype=torch.float8_e4m3fn)
        ops.static_scaled_fp8_quant(out, x, torch.rand(shape) * 0.1 + 0.01, groups)
        results.append(out.float())
    return results


@check("dynamic_scaled_fp8_quant", "dynamic_per_token_scaled_fp8_quant")
def _dynamic_fp8(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, results = torch.randn(5, 131, dtype=dtype), []
    one, out = torch.empty(1), torch.empty(5, 131).to(torch.float8_e4m3fn)
    ops.dynamic_scaled_fp8_quant(out, x, one)
    results += [out.float(), one]
    for bound in (None, torch.tensor([1.5])):
        out, rows = torch.empty_like(out), torch.empty(5, 1)
        ops.dynamic_per_token_scaled_fp8_quant(out, x, rows, bound)
        results += [out.float(), rows]
    return results
