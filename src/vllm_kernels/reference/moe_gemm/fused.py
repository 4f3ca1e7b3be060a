"""Mixture of experts on a CPU, one expert after the other; packed weights are the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812

_ISAS = ("amx", "vec", "neon", "vsx")


def _halves(x: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    gate, up = x.chunk(2, -1)
    return act(gate) * up


def _swigluoai(x: torch.Tensor) -> torch.Tensor:
    gate, up = x[..., ::2].clamp(max=7.0), x[..., 1::2].clamp(-7.0, 7.0)
    return (up + 1) * gate * torch.sigmoid(1.702 * gate)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": lambda x: _halves(x, F.silu),
    "gelu": lambda x: _halves(x, F.gelu),
    "gelu_tanh": lambda x: _halves(x, lambda gate: F.gelu(gate, approximate="tanh")),
    "swigluoai": _swigluoai,
}


def check_act(op: str, act: str) -> None:
    if act not in ACTIVATIONS:
        raise RuntimeError(f"{op}: act is '{act}', want silu, gelu, gelu_tanh or swigluoai")


def check_isa(op: str, isa: str) -> None:
    if isa not in _ISAS:
        raise RuntimeError(f"{op}: isa is '{isa}', want amx, vec, neon or vsx")


def prepack_moe_weight(weight: torch.Tensor, packed_weight: torch.Tensor, isa: str) -> None:
    """``packed_weight`` becomes what ``cpu_fused_moe`` takes for ``weight`` [experts, N, K].

    Here a copy. float32, bfloat16 or float16, one shape and dtype; ``isa`` is amx, vec, neon or
    vsx.
    """
    check_isa("prepack_moe_weight", isa)
    packed_weight.copy_(weight)


def cpu_fused_moe(
    output: torch.Tensor,
    input: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
    topk_weights: torch.Tensor,
    topk_id: torch.Tensor,
    skip_weighted: bool,
    act: str,
    isa: str,
) -> None:
    """``output[t] = sum_j topk_weights[t, j] * expert(topk_id[t, j], input[t])``.

    ``expert(e, x) = act(x @ w13[e].T + w13_bias[e]) @ w2[e].T + w2_bias[e]``, all in float32 but
    for act's result, which is rounded to the input's dtype. output, input [T, H]; w13 [E, 2 I, H]
    and w2 [E, H, I] from ``prepack_moe_weight``; topk_weights float32 [T, k], taken for 1 where
    ``skip_weighted``; topk_id int32 or int64 [T, k]. act: silu, gelu, gelu_tanh (gate in the first
    I columns, up in the others) or swigluoai (gates in the even columns).
    """
    check_act("cpu_fused_moe", act)
    check_isa("cpu_fused_moe", isa)
    result = torch.zeros(input.shape, dtype=torch.float32, device=input.device)
    for expert in torch.unique(topk_id).tolist():
        tokens, slots = (topk_id == expert).nonzero(as_tuple=True)
        x = input[tokens].float() @ w13[expert].float().t()
        if w13_bias is not None:
            x = x + w13_bias[expert].float()
        y = ACTIVATIONS[act](x).to(input.dtype).float() @ w2[expert].float().t()
        if w2_bias is not None:
            y = y + w2_bias[expert].float()
        if not skip_weighted:
            y = y * topk_weights[tokens, slots].unsqueeze(1)
        result.index_add_(0, tokens, y)
    output.copy_(result)
