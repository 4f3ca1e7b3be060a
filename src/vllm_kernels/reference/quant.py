"""Quantisation of activations to int8 (Jacob et al. 2018): x is about scale * (q - azp)."""

from __future__ import annotations

import torch

_MAX_ZERO_POINT = 2.0**22


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
