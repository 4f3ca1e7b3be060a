from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check(
    "causal_conv1d_weight_pack",
    "causal_conv1d_fwd_cpu",
    "causal_conv1d_update_cpu",
    "causal_conv1d_update_cpu_vec",
)
def _causal_conv1d(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Two prompts, then a token of each, then three drafted ones, two of which were accepted."""
    dim = 67
    weight, bias = torch.randn(dim, 4, dtype=dtype), torch.randn(dim, dtype=dtype)
    states = torch.randn(3, 6, dim, dtype=dtype).transpose(1, 2)
    starts, slots = torch.tensor([0, 2, 9]).int(), torch.tensor([2, 0]).int()
    packed = ops.causal_conv1d_weight_pack(weight)
    prompts = torch.randn(9, dim, dtype=dtype).t()
    first = ops.causal_conv1d_fwd_cpu(
        prompts, packed, bias, states, starts, slots, torch.tensor([True, False]), True, -1, True
    )
    one = ops.causal_conv1d_update_cpu(
        torch.randn(2, dim, dtype=dtype), states, packed, bias, True, None, slots, -1, True
    )
    drafted = ops.causal_conv1d_update_cpu(
        torch.randn(2, 3, dim, dtype=dtype), states, weight, None, False,
        torch.tensor([2, 1]).int(), slots, -1, False,
    )  # fmt: skip
    narrow = states[:, :, :3].clone()
    last = ops.causal_conv1d_update_cpu_vec(
        prompts.t(), narrow, weight, bias, "silu", slots, starts, -1
    )
    return [packed, first, one, drafted, last, states, narrow]
