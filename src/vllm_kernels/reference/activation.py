"""Activation functions, plain and gated ("GLU Variants Improve Transformer", Shazeer 2020).

Gated: ``input`` [..., 2 d] of a floating dtype, ``out`` [..., d] of the same; the activated first
half is rounded to that dtype before the product with the second. Plain: ``out`` as ``input``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  PyTorch's own convention

from vllm_kernels.reference import quant


def _gated(
    out: torch.Tensor, input: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    gate, up = input.chunk(2, dim=-1)
    out.copy_(activation(gate) * up)


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def silu_and_mul(result: torch.Tensor, input: torch.Tensor) -> None:
    """``result = silu(gate) * up``, silu(x) = x / (1 + e^-x)."""
    _gated(result, input, F.silu)


def gelu_and_mul(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = gelu(gate) * up``, gelu(x) = x (1 + erf(x / sqrt 2)) / 2."""
    _gated(out, input, F.gelu)


def gelu_tanh_and_mul(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = gelu(gate) * up`` with the tanh approximation of gelu."""
    _gated(out, input, _gelu_tanh)


def gelu_new(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2``."""
    out.copy_(_gelu_tanh(input))


def gelu_fast(out: torch.Tensor, input: torch.Tensor) -> None:
    """``gelu_new`` with the cubic factored: the same function."""
    out.copy_(_gelu_tanh(input))


def gelu_tanh(out: torch.Tensor, input: torch.Tensor) -> None:
    """``gelu_new`` under PyTorch's name for it."""
    out.copy_(_gelu_tanh(input))


def gelu_quick(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = x / (1 + e^(-1.702 x))``."""
    x = input.float()
    out.copy_(x * torch.sigmoid(1.702 * x))


def relu_squared(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = max(x, 0)^2`` ("Primer", So et al. 2021)."""
    out.copy_(F.relu(input.float()).square())


def mul_and_silu(out: torch.Tensor, input: torch.Tensor) -> None:
    """``out = first half * silu(second half)``."""
    first, second = input.chunk(2, dim=-1)
    out.copy_(first * F.silu(second))


def fatrelu_and_mul(out: torch.Tensor, input: torch.Tensor, threshold: float) -> None:
    """``out = (gate where gate > threshold, else 0) * up`` ("ProSparse", Song et al. 2024)."""
    _gated(out, input, lambda gate: torch.where(gate <= threshold, 0.0, gate))


def silu_and_mul_with_clamp(
    result: torch.Tensor, input: torch.Tensor, limit: float, alpha: float = 1.0, beta: float = 0.0
) -> None:
    """``result = g * sigmoid(alpha g) * (u + beta)``, with the gate and the other half clamped.

    g = min(gate, limit), u = min(max(up, -limit), limit); the activated half is rounded.
    """
    gate, up = input.chunk(2, dim=-1)
    g, u = gate.clamp(max=limit).float(), up.clamp(-limit, limit).float()
    result.copy_((g * torch.sigmoid(alpha * g)).to(input.dtype).float() * (u + beta))


def swigluoai_and_mul(
    out: torch.Tensor, input: torch.Tensor, alpha: float = 1.702, limit: float = 7.0
) -> None:
    """``out = (u + 1) * g * sigmoid(alpha g)`` in float32, rounded once (gpt-oss, 2025).

    Gates are the even columns of ``input``: g = min(input[..., ::2], limit);
    u = min(max(input[..., 1::2], -limit), limit).
    """
    gate, up = input[..., ::2].float(), input[..., 1::2].float()
    g, u = gate.clamp(max=limit), up.clamp(-limit, limit)
    out.copy_((u + 1) * (g * torch.sigmoid(alpha * g)))


def _situ(input: torch.Tensor, beta: float, linear_beta: float) -> torch.Tensor:
    gate, up = input.float().chunk(2, dim=-1)
    if linear_beta > 0:
        up = linear_beta * torch.tanh(up / linear_beta)
    return beta * torch.tanh(gate / beta) * torch.sigmoid(gate) * up


def situ_and_mul(
    out: torch.Tensor,
    input: torch.Tensor,
    beta: float = 1.0,
    linear_beta: float = -1.0,
    valid_rows: torch.Tensor | None = None,
) -> None:
    """``out = beta tanh(gate / beta) sigmoid(gate) * up`` in float32, rounded once (SiTU).

    With ``linear_beta`` above 0, ``up`` becomes linear_beta tanh(up / linear_beta) first.
    ``valid_rows``: int32, one element: rows from there on stay as they are.
    """
    rows = None if valid_rows is None else max(int(valid_rows), 0)
    flat, wide = out.view(-1, out.shape[-1])[:rows], input.flatten(0, -2)[:rows]
    flat.copy_(_situ(wide, beta, linear_beta))


def masked_situ_and_mul(
    out: torch.Tensor,
    input: torch.Tensor,
    expert_num_tokens: torch.Tensor,
    beta: float = 1.0,
    linear_beta: float = -1.0,
) -> None:
    """``situ_and_mul`` of the first rows of each expert; others stay as they are.

    ``input``: [experts, rows, 2 d]; ``expert_num_tokens``: int32 [experts].
    """
    for expert, count in enumerate(expert_num_tokens.clamp_min(0).tolist()):
        out[expert, :count] = _situ(input[expert, :count], beta, linear_beta).to(out.dtype)


def situ_and_mul_quant(
    out: torch.Tensor,
    scale: torch.Tensor,
    input: torch.Tensor,
    beta: float = 1.0,
    linear_beta: float = -1.0,
    group_size: int = 0,
    num_valid_tokens: torch.Tensor | None = None,
    topk: int = 1,
) -> None:
    """SiTU in float32, quantised by max(max |y|, 1e-10) / 448 of a row, or of 128 columns of it.

    ``out``: float8_e4m3fn [rows, d]; ``scale``: float32 [rows, 1], with ``group_size`` 128
    [rows, d / 128], written. Rows from ``num_valid_tokens * topk`` on are padding: their scales
    become 1 and their elements stay.
    """
    valid = len(out) if num_valid_tokens is None else max(int(num_valid_tokens), 0) * topk
    y = quant.in_groups(_situ(input[:valid], beta, linear_beta), group_size or out.shape[-1])
    measured = quant.divided(y.abs().amax(-1, keepdim=True).clamp_min(1e-10), 448.0)
    scale[valid:] = 1.0
    scale[:valid] = measured.squeeze(-1)
    out[:valid] = quant.to_float8(y / measured).flatten(-2)


def _swiglu_step(input: torch.Tensor, limit: float) -> torch.Tensor:
    gate, up = input.float().chunk(2, dim=-1)
    return F.silu(gate).clamp(max=limit) * up.clamp(-limit, limit)


_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu_no_mul": F.silu,
    "gelu_no_mul": F.gelu,
    "gelu_tanh_no_mul": _gelu_tanh,
    "relu2_no_mul": lambda x: F.relu(x.float()).square(),
}


def masked_moe_activation(
    out: torch.Tensor,
    input: torch.Tensor,
    valid_token_counts: torch.Tensor,
    activation: str,
    clamp_limit: float = 0.0,
    alpha: float = 1.0,
    beta: float = 0.0,
    situ_beta: float = 1.0,
    situ_linear_beta: float = -1.0,
) -> None:
    """An activation of the first rows of each expert; others stay as they are.

    ``input``: [experts, rows, columns], or [rows, columns] with one count.
    """
    gated: dict[str, Callable[[torch.Tensor, torch.Tensor], None]] = {
        "silu": silu_and_mul,
        "silu_with_clamp": lambda y, x: silu_and_mul_with_clamp(y, x, clamp_limit),
        "gelu": gelu_and_mul,
        "gelu_tanh": gelu_tanh_and_mul,
        "situ": lambda y, x: situ_and_mul(y, x, situ_beta, situ_linear_beta),
        "swigluoai": lambda y, x: swigluoai_and_mul(y, x, alpha, clamp_limit),
        "swigluoai_uninterleave": lambda y, x: silu_and_mul_with_clamp(
            y, x, clamp_limit, alpha, beta
        ),
        "swiglustep": lambda y, x: y.copy_(_swiglu_step(x, clamp_limit)),
    }
    experts = zip(input, out, strict=True) if input.dim() == 3 else [(input, out)]
    counts = valid_token_counts.clamp_min(0).tolist()
    for count, (rows, results) in zip(counts, experts, strict=True):
        if plain := _PLAIN.get(activation):
            results[:count] = plain(rows[:count]).to(out.dtype)
        else:
            gated[activation](results[:count], rows[:count])


def muse_spark_mul_tanh_soft_cap(
    out: torch.Tensor, input: torch.Tensor, multiplier: float, soft_cap_temp: float
) -> None:
    """``out = soft_cap_temp * tanh(input * multiplier / soft_cap_temp)`` in float32."""
    out.copy_(soft_cap_temp * torch.tanh(input.float() * multiplier / soft_cap_temp))


def silu_and_mul_quant(result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor) -> None:
    """``silu_and_mul``, then ``static_scaled_fp8_quant`` with one scale.

    ``result``: float8_e4m3fn [..., d]; ``scale``: float32, one element.
    """
    gate, up = input.chunk(2, dim=-1)
    y = (F.silu(gate) * up).float()
    result.copy_(quant.to_float8(y * (1.0 / scale.reshape(()))))


def silu_and_mul_per_block_quant(
    out: torch.Tensor,
    input: torch.Tensor,
    scales: torch.Tensor,
    group_size: int,
    scale_ub: torch.Tensor | None = None,
    is_scale_transposed: bool = False,
) -> None:
    """``silu(gate) * up`` in float32, quantised by a measured scale for each group of columns.

    ``out``: float8_e4m3fn or int8 [..., d]; ``scales``: float32 [rows, d / group_size], written:
    max |y| over the type's largest value (448 or 127), at most ``scale_ub``; with
    ``is_scale_transposed`` also [d / group_size, rows].
    """
    gate, up = input.float().chunk(2, dim=-1)
    y = quant.in_groups(F.silu(gate) * up, group_size)
    largest = quant.LARGEST[out.dtype]
    measured = quant.divided(y.abs().amax(-1, keepdim=True), largest)
    if scale_ub is not None:
        measured = torch.minimum(measured, scale_ub.reshape(()))
    measured = measured.clamp_min(quant.LEAST_SCALE[out.dtype])
    quant.put_group_scales(scales, measured, is_scale_transposed)
    out.copy_(quant.saturated(y / measured, out.dtype).flatten(-2))


def persistent_masked_m_silu_mul_quant(
    input: torch.Tensor,
    counts: torch.Tensor,
    y_q: torch.Tensor,
    y_s: torch.Tensor,
    use_ue8m0: bool,
) -> None:
    """``silu(gate) * up`` of each expert's first rows in float32, quantised by 128 columns.

    ``input``: [experts, rows, 2 d]; ``counts``: int32 [experts]; ``y_q``: float8_e4m3fn
    [experts, rows, d], written as ``y_s``: float32 [experts, rows, d / 128]: max(max |y|, 1e-10) /
    448, with ``use_ue8m0`` the next power of two; or then int32 [experts, rows, ceil(d / 512)]: the
    powers' exponents as bytes, lowest first.
    """
    packed = y_s.dtype == torch.int32
    for expert, count in enumerate(counts.clamp(0, input.shape[1]).tolist()):
        gate, up = input[expert, :count].float().chunk(2, dim=-1)
        y = quant.in_groups(F.silu(gate) * up, 128)
        scale = quant.divided(y.abs().amax(-1, keepdim=True).clamp_min(1e-10), 448.0)
        if use_ue8m0:
            scale = quant.next_power_of_two(scale)
        y_q[expert, :count] = quant.saturated(y / scale, y_q.dtype).flatten(-2)
        scale = scale.squeeze(-1)
        if packed:
            bits = scale.view(torch.int32) >> 23
            exponents = F.pad(bits.to(torch.uint8), (0, -scale.shape[-1] % 4))
            scale = exponents.contiguous().view(torch.int32)
        y_s[expert, :count] = scale
