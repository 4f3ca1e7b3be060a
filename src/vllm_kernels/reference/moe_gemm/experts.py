"""Mixture of experts with weights of 16, 8 or 4 bits on a CPU: decoded, then as `fused` has it."""

from __future__ import annotations

import torch

from vllm_kernels.reference.float4 import e2m1
from vllm_kernels.reference.moe_gemm.fused import ACTIVATIONS, check_act, check_isa
from vllm_kernels.reference.packed import rounded_to_int8, unpack_int4
from vllm_kernels.reference.quant import times_blocks

UNQUANTISED, INT8, FP8, INT4, MXFP4 = 0, 1, 2, 3, 4
_ACTS = ("silu", "swigluoai", "gelu", "gelu_tanh")


def _mxfp4(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[N, K / 2] bytes, the lower halves first, times powers of two [N, K / 32], biased by 127."""
    values = e2m1(torch.stack((weight & 15, weight >> 4), -1)).flatten(-2)
    powers = torch.where(scale == 255, torch.nan, torch.exp2(scale.float() - 127))
    return values * powers.repeat_interleave(32, -1)


def _weight(
    method: int,
    weight: torch.Tensor,
    scale: torch.Tensor | None,
    zero: torch.Tensor | None,
    block: list[int] | None,
) -> torch.Tensor:
    """One expert's matrix in float32."""
    if method == INT4:
        if scale is None or zero is None:
            raise RuntimeError("fused_experts_cpu: scales or zero points of INT4 weights are None")
        return unpack_int4(weight, zero, scale).t()
    if method == UNQUANTISED or scale is None:
        return weight.float()
    if method == INT8:
        return weight.float() * scale.reshape(-1, 1)
    if method == MXFP4:
        return _mxfp4(weight, scale)
    if block is None:
        raise RuntimeError("fused_experts_cpu: block_size is None, want that of float8 weights")
    return times_blocks(weight, scale, block)


def _activated(x: torch.Tensor, act: str, alpha: float, limit: float) -> torch.Tensor:
    if act != "swigluoai":
        return ACTIVATIONS[act](x)
    gate, up = x[..., ::2].clamp(max=limit), x[..., 1::2].clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(alpha * gate)


def fused_experts_cpu(
    out: torch.Tensor,
    hidden_states: torch.Tensor,
    w1: torch.Tensor,
    w2: torch.Tensor,
    topk_weights: torch.Tensor,
    topk_ids: torch.Tensor,
    moe_comp_method: int,
    w1_scale: torch.Tensor | None,
    w2_scale: torch.Tensor | None,
    w1_zero: torch.Tensor | None,
    w2_zero: torch.Tensor | None,
    a1_scale: torch.Tensor | None,
    block_size: list[int] | None,
    w1_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
    alpha: float | None,
    limit: float | None,
    is_vnni: bool,
    act_method: int,
) -> None:
    """``out[t] = sum_j topk_weights[t, j] * expert(topk_ids[t, j], hidden_states[t])``.

    ``expert`` is as in ``cpu_fused_moe``; hidden_states keep their precision, but with method 3.
    moe_comp_method: 0, weights of the input's dtype; 1, int8 with float32 scales [E, N] or
    [E, N, 1]; 2, float8_e4m3fn with one float32 scale for each block of ``block_size``; 3, integers
    of 4 bits, with scales and zero points, from ``convert_weight_packed_scale_zp``: both products
    round what they multiply to int8; 4, MXFP4: two values of K a byte, scales uint8 [E, N, K / 32]
    from ``convert_scale_packed``. w1 [E, 2 I, H] and w2 [E, H, I] are from
    ``convert_weight_packed`` unless they are integers of 4 bits; biases float32 or the input's
    dtype. act_method: 0 SiLU, 1 gpt-oss's of ``alpha`` (1.702) and ``limit`` (7), 2 GELU, 3 GELU by
    tanh.
    """
    result = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    act = _ACTS[act_method]
    for expert in torch.unique(topk_ids).tolist():
        tokens, slots = (topk_ids == expert).nonzero(as_tuple=True)
        scale1 = None if w1_scale is None else w1_scale[expert]
        scale2 = None if w2_scale is None else w2_scale[expert]
        zero1 = None if w1_zero is None else w1_zero[expert]
        zero2 = None if w2_zero is None else w2_zero[expert]
        up = _weight(moe_comp_method, w1[expert], scale1, zero1, block_size)
        down = _weight(moe_comp_method, w2[expert], scale2, zero2, block_size)
        rounded = rounded_to_int8 if moe_comp_method == INT4 else torch.Tensor.float
        x = rounded(hidden_states[tokens]) @ up.t()
        if w1_bias is not None:
            x = x + w1_bias[expert].float()
        x = _activated(x, act, 1.702 if alpha is None else alpha, 7.0 if limit is None else limit)
        y = rounded(x.to(hidden_states.dtype)) @ down.t()
        if w2_bias is not None:
            y = y + w2_bias[expert].float()
        result.index_add_(0, tokens, y * topk_weights[tokens, slots].unsqueeze(1))
    out.copy_(result)


def prepack_moe_weight_int8(weight: torch.Tensor, packed_weight: torch.Tensor, isa: str) -> None:
    """``packed_weight`` becomes what ``cpu_fused_moe_int8`` takes for int8 ``weight``: a copy."""
    check_isa("prepack_moe_weight_int8", isa)
    packed_weight.copy_(weight)


def cpu_fused_moe_int8(
    output: torch.Tensor,
    input: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    w13_scale: torch.Tensor,
    w2_scale: torch.Tensor,
    w13_bias: torch.Tensor | None,
    w2_bias: torch.Tensor | None,
    topk_weights: torch.Tensor,
    topk_id: torch.Tensor,
    skip_weighted: bool,
    act: str,
    isa: str,
) -> None:
    """``cpu_fused_moe`` with int8 weights, each row times its scale.

    w13 [E, 2 I, H] and w2 [E, H, I] are from ``prepack_moe_weight_int8``; scales float32 [E, N] or
    [E, N, 1]; biases float32 or the input's dtype. The input keeps its precision.
    """
    check_act("cpu_fused_moe_int8", act)
    check_isa("cpu_fused_moe_int8", isa)
    fused_experts_cpu(
        output, input, w13, w2,
        torch.ones_like(topk_weights) if skip_weighted else topk_weights, topk_id, INT8,
        w13_scale, w2_scale, None, None, None, None, w13_bias, w2_bias, None, None, True,
        _ACTS.index(act),
    )  # fmt: skip
