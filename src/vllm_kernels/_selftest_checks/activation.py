from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import Run, check


def _activation(name: str, width: int) -> Run:
    def run(ops: Any, dtype: torch.dtype) -> list[Tensor]:
        x = torch.randn(5, width, dtype=dtype) * 3
        out = torch.empty(5, 67, dtype=dtype)
        getattr(ops, name)(out, x)
        return [out]

    return run


# 67 columns: whole vectors of every tier and a remainder.
for _name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
    check(_name)(_activation(_name, 134))
for _name in ("gelu_new", "gelu_fast", "gelu_quick", "gelu_tanh"):
    check(_name)(_activation(_name, 67))
