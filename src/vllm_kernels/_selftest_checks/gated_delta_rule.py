from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check(
    "fused_gdn_gating_cpu",
    "chunk_gated_delta_rule_cpu",
    "fused_sigmoid_gating_delta_rule_update_cpu",
    "fused_sigmoid_gating_delta_rule_update_spec_cpu",
)
def _gated_delta_rule(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Prompts of 2 and 38 tokens, a token of each, and three drafted ones; heads of 40 and 35."""
    tokens, starts, slots = 40, torch.tensor([0, 2, 40]).int(), torch.tensor([2, 0]).int()
    logs, bias = torch.randn(4), torch.randn(4, dtype=dtype)
    a, b = torch.randn(tokens, 4, dtype=dtype), torch.randn(tokens, 4, dtype=dtype)
    query, key = (torch.randn(1, tokens, 2, 40, dtype=dtype) for _ in range(2))
    value, states = torch.randn(1, tokens, 4, 35, dtype=dtype), torch.randn(4, 4, 40, 35)
    g, beta = ops.fused_gdn_gating_cpu(logs, a, b, bias)
    out, final = ops.chunk_gated_delta_rule_cpu(
        query, key, value, g, beta, states, True, starts, False, True, slots
    )
    one = ops.fused_sigmoid_gating_delta_rule_update_cpu(
        logs, bias, query[:, :2], key[:, :2], value[:, :2], a[:2], b[:2], states, slots,
        torch.tensor([0, 1, 2]).int(), True,
    )  # fmt: skip
    drafted = ops.fused_sigmoid_gating_delta_rule_update_spec_cpu(
        logs, bias, query[0, :3], key[0, :3], value[0, :3], a[:3], b[:3], states,
        torch.tensor([[3, 1, 2]]).int(), torch.tensor([2]).int(), torch.tensor([0, 3]).int(), True,
    )  # fmt: skip
    return [g, beta, out, final, one, drafted, states]
