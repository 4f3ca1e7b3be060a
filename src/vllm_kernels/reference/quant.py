"""Quantisation of activations to int8 (Jacob et al. 2018): x is about scale * (q - azp).

And to float8_e4m3fn ("FP8 Formats for Deep Learning", Micikevicius et al. 2022), without azp.
"""

from __future__ import annotations

import torch

_MAX_ZERO_POINT = 2.0**22

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
# Below it no measured scale goes, so that a row of zeros has a finite inverse.
LEAST_SCALE = {torch.float8_e4m3fn: 1 / (448 * 512), torch.int8: 2.0**-23}


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
    return (largest / LARGEST[dtype]).clamp_min(LEAST_SCALE[dtype])


def in_groups(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """The last dimension as [groups, group_size]."""
    return x.reshape(*x.shape[:-1], -1, group_size)


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
    where that passes 2^22 the row is quantised symmetrically.
    """
    x = input.float()
    rows = (*input.shape[:-1], 1)
    if x.numel() == 0:
        scale.zero_()
        return
    measured = x.abs().amax(-1, keepdim=True) / 127
    zero_point = torch.zeros_like(measured)
    if azp is not None:
        low, high = x.aminmax(dim=-1, keepdim=True)
        wide = (high - low) / 255
        wide = torch.where(wide.isinf(), high / 255 - low / 255, wide)
        shifted = (-128 - low / wide).round()
        fits = shifted.abs() <= _MAX_ZERO_POINT
        measured = torch.where(fits, wide, measured)
        zero_point = torch.where(fits, shifted, zero_point)
        azp.copy_(zero_point.reshape(azp.shape))
    scale.copy_(measured.reshape(scale.shape))
    inverse = 1.0 / measured.clamp_min(torch.finfo(torch.float32).tiny)
    _quantize(result, x, inverse, zero_point.reshape(rows))
