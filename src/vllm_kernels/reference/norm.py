"""References of the root-mean-square norm (Zhang and Sennrich 2019)."""

from __future__ import annotations

import torch

from vllm_kernels.reference import quant


def _normed(wide: torch.Tensor, dtype: torch.dtype, epsilon: float) -> torch.Tensor:
    """The float32 rows over their root mean square, rounded to ``dtype`` before any weight."""
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(dtype)


def rms_norm(
    result: torch.Tensor, input: torch.Tensor, weight: torch.Tensor | None, epsilon: float
) -> None:
    """result = input * rsqrt(mean(input^2) + epsilon) * weight, over the last dimension.

    Args:
        result: [..., hidden], the input's dtype; written.
        input: [..., hidden], float32, bfloat16 or float16.
        weight: [hidden] of the input's dtype, or None for 1; on CUDA also [n, hidden] where the
            input is [n, ..., hidden].
        epsilon: Added to the mean square.
    """
    normed = _normed(input.float(), input.dtype, epsilon)
    if weight is not None and weight.dim() == 2:
        weight = weight.view(weight.shape[0], *[1] * (input.dim() - 2), weight.shape[1])
    result.copy_(normed if weight is None else normed * weight)


def fused_add_rms_norm(
    input: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor | None, epsilon: float
) -> None:
    """residual += input, then input = rms_norm(residual), both in place.

    The norm sees the sum before it is rounded to the residual's dtype.

    Args:
        input: [..., hidden], float32, bfloat16 or float16; overwritten.
        residual: The shape and dtype of ``input``; overwritten.
        weight: [hidden] of the input's dtype, or None for 1.
        epsilon: Added to the mean square.
    """
    total = input.float() + residual.float()
    normed = _normed(total, input.dtype, epsilon)
    residual.copy_(total)
    input.copy_(normed if weight is None else normed * weight)


def _normed_rows(
    input: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """What the two ops above would write, as float32; ``residual`` is updated."""
    total = input.float()
    if residual is not None:
        total = total + residual.float()
        residual.copy_(total)
    return (_normed(total, input.dtype, epsilon) * weight).float()


def rms_norm_static_fp8_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
) -> None:
    """``rms_norm``, then ``static_scaled_fp8_quant`` with one scale.

    ``result``: float8_e4m3fn [..., hidden]; ``scale``: float32, one element.
    """
    y = _normed_rows(input, None, weight, epsilon)
    result.copy_(quant.to_float8(y * (1.0 / scale.reshape(()))))


def fused_add_rms_norm_static_fp8_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
) -> None:
    """residual += input, then ``rms_norm_static_fp8_quant`` of the sum; ``input`` stays."""
    y = _normed_rows(input, residual, weight, epsilon)
    result.copy_(quant.to_float8(y * (1.0 / scale.reshape(()))))


def rms_norm_dynamic_per_token_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    scale_ub: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> None:
    """``rms_norm`` (of the sum, where there is a residual), quantised by measured row scales.

    ``result``: float8_e4m3fn or int8 [..., hidden]; ``scale``: float32, one for each row, written:
    max |y|, at most ``scale_ub``, over the type's largest value (448 or 127).
    """
    y = _normed_rows(input, residual, weight, epsilon)
    measured = quant.bounded_scale(y.abs().amax(-1, keepdim=True), result.dtype, scale_ub)
    scale.copy_(measured.reshape(scale.shape))
    result.copy_(quant.to_quantized(y, measured, result.dtype))


def rms_norm_per_block_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    epsilon: float,
    scale_ub: torch.Tensor | None,
    residual: torch.Tensor | None,
    group_size: int,
    is_scale_transposed: bool,
) -> None:
    """The same with a scale for each group of ``group_size`` (64 or 128) columns of a row.

    ``scale``: float32 [rows, groups]; with ``is_scale_transposed`` also [groups, rows].
    """
    y = quant.in_groups(_normed_rows(input, residual, weight, epsilon), group_size)
    measured = quant.bounded_scale(y.abs().amax(-1, keepdim=True), result.dtype, scale_ub)
    quant.put_group_scales(scale, measured, is_scale_transposed)
    result.copy_(quant.to_quantized(y, measured, result.dtype).flatten(-2))
