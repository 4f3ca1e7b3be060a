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
