"""Quantisation of activations to int8 (Jacob et al. 2018): x is about scale * (q - azp).

And to float8_e4m3fn ("FP8 Formats for Deep Learning", Micikevicius et al. 2022), without azp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MAX_ZERO_POINT = 2.0**22

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
# Below it no measured scale goes, so that a row of zeros has a finite inverse.
LEAST_SCALE = {torch.float8_e4m3fn: 1 / (448 * 512), torch.int8: 2.0**-23}


def divided(x: torch.Tensor, by: float) -> torch.Tensor:
    """``x / by``, correctly rounded: of a plain number, PyTorch takes the inverse on CUDA."""
    return x / torch.full((), by, dtype=torch.float32, device=x.device)


def to_float8(x: torch.Tensor) -> torch.Tensor:
    """float8_e4m3fn of float32 values, saturated; a NaN stays one."""
    return x.clamp(-448, 448).to(torch.float8_e4m3fn)


def saturated(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float8_e4m3fn or int8 of float32 values, ties to even; a NaN is 0 in int8."""
    if dtype == torch.int8:
        return x.round().clamp(-128, 127).nan_to_num(0.0).to(torch.int8)
    return to_float8(x)


def to_quantized(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x / scale`` in float8_e4m3fn, ``x * (1 / scale)`` in int8: as the engine rounds them."""
    return saturated(x * (1.0 / scale) if dtype == torch.int8 else x / scale, dtype)


def bounded_scale(
    largest: torch.Tensor, dtype: torch.dtype, upper_bound: torch.Tensor | None
) -> torch.Tensor:
    """Scale of values up to ``largest``, which is taken as at most ``upper_bound``."""
    if upper_bound is not None:
        largest = torch.minimum(largest, upper_bound.reshape(()))
    return divided(largest, LARGEST[dtype]).clamp_min(LEAST_SCALE[dtype])


def in_groups(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """The last dimension as [groups, group_size]."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // group_size, group_size)


def times_blocks(values: torch.Tensor, scales: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """``values`` [rows, columns], with narrower last blocks, times their scales, in float32."""
    rows, columns = values.shape
    scales = scales.repeat_interleave(min(block[0], rows), 0)[:rows]
    return values.float() * scales.repeat_interleave(min(block[1], columns), 1)[:, :columns]


def put_group_scales(scales: torch.Tensor, measured: torch.Tensor, transposed: bool) -> None:
    """Write ``measured`` [..., groups, 1] into ``scales`` [rows, groups], or its transpose."""
    flat = measured.reshape(-1, measured.shape[-2])
    if (
        transposed
        and scales.shape == flat.T.shape
        and (scales.shape[0] != scales.shape[1] or scales.stride(1) == 1)
    ):
        flat = flat.T
    scales.copy_(flat)


def _quantize(
    result: torch.Tensor, x: torch.Tensor, inverse_scale: torch.Tensor, azp: torch.Tensor | None
) -> None:
    q = (x * inverse_scale).round()
    if azp is not None:
        q = q + azp.float()
    result.copy_(q.clamp(-128, 127).nan_to_num(0.0))


def static_scaled_int8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None
) -> None:
    """``result = saturate(round(input / scale) + azp)`` in float32, ties to even.

    ``input``: [..., hidden], floating; ``result``: int8, its shape; ``scale``: float32 [1];
    ``azp``: int32 [1] or None.
    """
    _quantize(result, input.float(), 1.0 / scale.reshape(()), azp)


def dynamic_scaled_int8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | None
) -> None:
    """The same with a scale for each row, measured and written to ``scale`` (and ``azp``).

    ``scale``: float32 [tokens, 1]; ``azp``: int32 [tokens, 1], or None for symmetric:
    scale = max |x| / 127. Asymmetric: scale = (max - min) / 255, azp = round(-128 - min / scale);
    where that passes 2^22 the row is quantised symmetrically. A row with a NaN or an infinity has
    an unspecified scale and result, as with the engine's own op: a NaN need not come through.
    A row without values has 0 for both.
    """
    x = input.float()
    rows = (*input.shape[:-1], 1)
    if x.numel() == 0:
        scale.zero_()
        if azp is not None:
            azp.zero_()
        return
    measured = divided(x.abs().amax(-1, keepdim=True), 127)
    zero_point = torch.zeros_like(measured)
    if azp is not None:
        low, high = x.aminmax(dim=-1, keepdim=True)
        wide = divided(high - low, 255)
        wide = torch.where(wide.isinf(), divided(high, 255) - divided(low, 255), wide)
        shifted = (-128 - low / wide).round()
        fits = shifted.abs() <= _MAX_ZERO_POINT
        measured = torch.where(fits, wide, measured)
        zero_point = torch.where(fits, shifted, zero_point)
        azp.copy_(zero_point.reshape(azp.shape))
    scale.copy_(measured.reshape(scale.shape))
    inverse = 1.0 / measured.clamp_min(torch.finfo(torch.float32).tiny)
    _quantize(result, x, inverse, zero_point.reshape(rows))


def static_scaled_fp8_quant(
    result: torch.Tensor,
    input: torch.Tensor,
    scale: torch.Tensor,
    group_shape: list[int] | None = None,
) -> None:
    """``result = input * (1 / scale)`` in float32, as float8_e4m3fn, saturated.

    ``input``: [..., hidden], floating; ``scale``: float32, one element, or one for each group of
    rows and columns: [rows / group_shape[0], hidden / group_shape[1]], -1 standing for all; in one
    dimension where one of these is 1.
    """
    rows = input.float().reshape(-1, input.shape[-1])
    if scale.numel() > 1:
        if scale.dim() == 1:
            if group_shape is None:
                raise ValueError("static_scaled_fp8_quant: a scale of 1 dimension, no group_shape")
            scale = scale.view(1, -1) if group_shape[0] in (-1, len(rows)) else scale.view(-1, 1)
        for dim in (0, 1):
            scale = scale.repeat_interleave(rows.shape[dim] // scale.shape[dim], dim)
    else:
        scale = scale.reshape(())
    inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
    result.copy_(to_float8(rows * inverse).view(input.shape))


def dynamic_scaled_fp8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor
) -> None:
    """The same with one scale, measured and written: max |x| / 448. Zeros have scale 0.

    With a NaN the result is unspecified.
    """
    largest = input.abs().amax().float() if input.numel() else torch.zeros(())
    scale.fill_(divided(largest, 448))
    static_scaled_fp8_quant(result, input, scale)


def dynamic_per_token_scaled_fp8_quant(
    result: torch.Tensor, input: torch.Tensor, scale: torch.Tensor, scale_ub: torch.Tensor | None
) -> None:
    """``result = input / scale`` as float8_e4m3fn, with a measured scale for each row.

    ``scale``: float32 [tokens, 1], written: max |x|, at most ``scale_ub``, over 448. A row with a
    NaN has an unspecified result.
    """
    x = input.float()
    if x.numel() == 0:
        scale.zero_()
        return
    measured = bounded_scale(x.abs().amax(-1, keepdim=True), result.dtype, scale_ub)
    scale.copy_(measured.reshape(scale.shape))
    result.copy_(to_quantized(x, measured, result.dtype))


def next_power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """The least power of two that is not below each positive ``scale``."""
    fraction, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), exponent - (fraction == 0.5).int())


def _group_quant(
    input: torch.Tensor,
    output_q: torch.Tensor,
    group_size: int,
    eps: float,
    least: float,
    largest: float,
    power_of_two: bool,
) -> torch.Tensor:
    """Quantise each group of columns by its measured scale; return the scales [..., groups]."""
    x = in_groups(input.float(), group_size)
    scale = divided(x.abs().amax(-1, keepdim=True).clamp_min(eps), largest)
    if power_of_two:
        scale = next_power_of_two(scale.clamp_min(1e-10))
    q = (x / scale).clamp(least, largest)
    output_q.copy_(saturated(q, output_q.dtype).flatten(-2))
    return scale.squeeze(-1)


def per_token_group_fp8_quant(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s: torch.Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
    scale_ue8m0: bool,
    dummy_is_scale_transposed: bool,
    dummy_is_tma_aligned: bool,
) -> None:
    """Quantise each group of ``group_size`` columns by a scale of its own, measured and written.

    ``output_q``: float8_e4m3fn, the input's shape; ``output_s``: float32 [..., groups] of any
    strides: max(max |x|, eps) / fp8_max, with ``scale_ue8m0`` the next power of two.
    """
    scale = _group_quant(input, output_q, group_size, eps, fp8_min, fp8_max, scale_ue8m0)
    output_s.copy_(scale.reshape(output_s.shape))


def per_token_group_quant_int8(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s: torch.Tensor,
    group_size: int,
    eps: float,
    int8_min: float,
    int8_max: float,
) -> None:
    """The same in int8, rounded to nearest."""
    scale = _group_quant(input, output_q, group_size, eps, int8_min, int8_max, False)
    output_s.copy_(scale.reshape(output_s.shape))


def per_token_group_fp8_quant_packed(
    input: torch.Tensor,
    output_q: torch.Tensor,
    output_s_packed: torch.Tensor,
    group_size: int,
    eps: float,
    fp8_min: float,
    fp8_max: float,
) -> None:
    """The same with the scales' exponents as bytes, those of four groups in an int32.

    ``output_s_packed``: int32 [rows, ceil(groups / 4)] with strides 1 and the rows rounded up to a
    multiple of 4; ``output_q`` may have that many rows: the added ones are set to 0.
    """
    rows = input.reshape(-1, input.shape[-1])
    q = output_q if output_q.shape == input.shape else output_q[: len(rows)]
    scale = _group_quant(input, q, group_size, eps, fp8_min, fp8_max, True)
    exponents = scale.reshape(len(rows), -1).view(torch.int32) >> 23
    packs = torch.nn.functional.pad(exponents, (0, -exponents.shape[1] % 4)).view(len(rows), -1, 4)
    shifts = torch.tensor([0, 8, 16, 24], device=packs.device)
    output_s_packed.copy_((packs.long() << shifts).sum(-1))
    if output_q.shape != input.shape:
        output_q[len(rows) : -(-len(rows) // 4) * 4].zero_()
