from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("init_cpu_memory_env", dtypes=(torch.int64,))
def _memory_env(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """No node named: nothing changes in this process."""
    ops.init_cpu_memory_env([])
    return []
