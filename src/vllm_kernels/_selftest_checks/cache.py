from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("compute_slot_mapping_kernel_impl", dtypes=(torch.int64,))
def _slot_mapping(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    starts = torch.tensor([0, 3, 4], dtype=torch.int32)
    slots = torch.full((6,), -1, dtype=dtype)
    table = torch.tensor([[4, 1], [7, 2]], dtype=torch.int32)
    ops.compute_slot_mapping_kernel_impl(starts, torch.tensor([15, 16, 17, 20]), table, slots, 16)
    return [slots]
