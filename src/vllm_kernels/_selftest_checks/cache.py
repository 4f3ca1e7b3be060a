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


@check("concat_and_cache_mla_cpu")
def _latent(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    cache = torch.zeros(2, 4, 24, dtype=dtype)
    slots = torch.tensor([6, -1, 0])
    latent, rope = torch.randn(3, 16, dtype=dtype), torch.randn(3, 1, 8, dtype=dtype)
    ops.concat_and_cache_mla_cpu(latent, rope, cache, slots)
    return [cache]
