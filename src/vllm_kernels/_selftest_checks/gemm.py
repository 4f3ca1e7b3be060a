from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check(
    "is_onednn_acl_supported",
    "create_onednn_mm_handler",
    "onednn_mm",
    "release_dnnl_matmul_handler",
    dtypes=(torch.float32, torch.bfloat16),
)
def _matmul(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    if ops.is_onednn_acl_supported() not in (True, False):
        raise RuntimeError("is_onednn_acl_supported did not answer with a bool")
    weight = torch.randn(96, 160, dtype=dtype) / 8
    handle = ops.create_onednn_mm_handler(weight.t(), 32)
    results = []
    for rows, bias in ((1, None), (5, torch.randn(96, dtype=dtype))):
        out = torch.empty(rows, 96, dtype=dtype)
        a = torch.randn(rows, 160, dtype=dtype)
        ops.onednn_mm(out, a, bias, torch.tensor(handle, dtype=torch.int64))
        results.append(out)
    ops.release_dnnl_matmul_handler(handle)
    return results


@check(
    "create_onednn_scaled_mm_handler",
    "onednn_scaled_mm",
    dtypes=(torch.float32, torch.bfloat16),
)
def _scaled_matmul(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    weight = torch.randint(-127, 128, (96, 160), dtype=torch.int8)
    scales = torch.rand(96, 1) * 1e-2
    handle = ops.create_onednn_scaled_mm_handler(weight.t(), scales, dtype, True, False, 32)
    out = torch.empty(5, 96, dtype=dtype)
    a = torch.randint(-127, 128, (5, 160), dtype=torch.int8)
    ops.onednn_scaled_mm(
        out, a, torch.rand(5, 1) * 1e-2, None, None, torch.randn(96, dtype=dtype),
        torch.tensor(handle, dtype=torch.int64),
    )  # fmt: skip
    ops.release_dnnl_matmul_handler(handle)
    return [out]
