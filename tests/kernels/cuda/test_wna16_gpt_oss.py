"""A layer of gpt-oss's experts by the ops that an engine calls for it, in its order."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference import activation as activation_reference

from ..common.wna16 import UNIT, Problem, make
from .test_wna16_marlin_experts import stacked

ops = torch.ops.vllm_kernels

EXPERTS, CHOSEN, HIDDEN, INNER = 8, 4, 320, 192


def align(chosen: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = chosen.numel()
    places = -(-(rows + EXPERTS * (block - 1)) // block) * block
    order, owners, used = (
        torch.empty(size, dtype=torch.int32, device="cuda") for size in (places, places // block, 1)
    )
    ops.moe_align_block_size(chosen, EXPERTS, block, order, owners, used, None)
    return order, owners, used


@pytest.mark.parametrize("type_name", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("tokens", [1, 7, 64, 700])
def test_a_layer(tokens: int, type_name: str) -> None:
    dtype = torch.bfloat16
    up = [make(type_name, 1, 2 * INNER, HIDDEN, 0, dtype, bias=True) for _ in range(EXPERTS)]
    down = [make(type_name, 1, HIDDEN, INNER, 0, dtype, bias=True) for _ in range(EXPERTS)]
    x = torch.randn(tokens, HIDDEN, device="cuda").to(dtype)
    logits = torch.randn(tokens, EXPERTS, device="cuda").to(dtype)

    weights = torch.empty(tokens, CHOSEN, device="cuda")
    chosen, places = (
        torch.empty(tokens, CHOSEN, dtype=torch.int32, device="cuda") for _ in range(2)
    )
    ops.topk_softmax(weights, chosen, places, logits, True, None)
    block = next((one for one in (8, 16, 32, 48) if tokens * CHOSEN / EXPERTS / one < 0.9), 64)
    routing = (*align(chosen, block), weights, block)
    workspace = torch.zeros(132 * 4, dtype=torch.int32, device="cuda")

    def product(a: torch.Tensor, problems: list[Problem], top_k: int, mul: bool) -> torch.Tensor:
        first = problems[0]
        return ops.moe_wna16_marlin_gemm(  # type: ignore[no-any-return]
            a, None, stacked(problems, "weights"), stacked(problems, "bias"),
            stacked(problems, "scales"), None, stacked(problems, "global_scale"), None, None, None,
            workspace, *routing, top_k, mul, first.type_id, len(a), first.n, a.shape[1], True,
            False, True, False, -1, -1, -1,
        )  # fmt: skip

    gates = product(x, up, CHOSEN, False)
    inner = torch.empty(tokens * CHOSEN, INNER, dtype=dtype, device="cuda")
    ops.swigluoai_and_mul(inner, gates, 1.702, 7.0)
    entries = product(inner, down, 1, True)
    out = torch.empty_like(x)
    ops.moe_sum(entries.view(tokens, CHOSEN, HIDDEN), out, None, None)

    exact = torch.zeros(tokens, HIDDEN, dtype=torch.float64, device="cuda")
    for expert in range(EXPERTS):
        rows, slots = (chosen == expert).nonzero(as_tuple=True)
        gate = x[rows].double() @ up[expert].dense + up[expert].plain_bias.double()  # type: ignore[union-attr]
        mid = torch.empty(len(rows), INNER, device="cuda")
        activation_reference.swigluoai_and_mul(mid, gate.float())
        result = mid.double() @ down[expert].dense + down[expert].plain_bias.double()  # type: ignore[union-attr]
        exact.index_add_(0, rows, result * weights[rows, slots, None].double())
    # Rounded four times: gates, activations, entries, sums.
    assert (out.double() - exact).norm() < 4 * UNIT[dtype] * exact.norm()
