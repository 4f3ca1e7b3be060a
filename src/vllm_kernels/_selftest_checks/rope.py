from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("rotary_embedding")
def _rotary_embedding(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    results = []
    for is_neox in (True, False):
        positions = torch.tensor([0, 3, 17, 63, 5])
        query, key = torch.randn(5, 4 * 64, dtype=dtype), torch.randn(5, 2 * 64, dtype=dtype)
        angles = torch.outer(torch.arange(64.0), 10000.0 ** -(torch.arange(24) / 24))
        cache = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
        ops.rotary_embedding(positions, query, key, 64, cache, is_neox)
        results += [query, key]
    return results
