"""How far a result may be off: what rounding, cancelling sums and recursions leave open."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .calls import Call, written
from .memory import plain

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# A few terms may cancel to anything: a float32 result of 1 by 1 was 2e-4 off, and as near to the
# exact sum as the reference's.
_PRODUCTS = {"weight_packed_linear", "fp8_scaled_mm_cpu", "int8_scaled_mm_with_quant"}
# Past this a recursion has grown far beyond its inputs.
_GROWN = 1e5
# A recursion may grow on its way and shrink again: so many times as far as the reference moves with
# its inputs, a result may be off.
NUDGES = 8


def _steps(x: Tensor) -> Tensor:
    """float8_e4m3fn as numbers whose neighbours are one apart."""
    bits = x.contiguous().view(torch.int8).int()
    return torch.where(bits < 0, -(bits & 127), bits)


def _magnitude(value: object) -> object:
    """A tensor of the values' magnitudes, in the same type."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.float8_e4m3fn:
        return (value.contiguous().view(torch.int8) & 127).view(value.dtype)
    return value.clamp(min=-127).abs() if value.dtype == torch.int8 else value.abs()


def cancelled(call: Call, provider: Any) -> float:
    """The largest sum of the magnitudes that a product adds up; 0 of other ops."""
    if call.op not in _PRODUCTS:
        return 0.0
    sizes = Call(call.op, tuple(map(_magnitude, call.arguments)))
    result = sizes.run(provider)
    found = result if isinstance(result, Tensor) else sizes.arguments[written(call.op)[0]]
    return float(found.double().abs().amax()) if found.numel() else 0.0


def near(got: Tensor, want: Tensor, apart: float) -> bool:
    """Whether two results lie no more than that apart."""
    if not apart or got.shape != want.shape or got.dtype != want.dtype:
        return False
    return torch.allclose(got, want, rtol=2e-3, atol=apart, equal_nan=True)


def nudged(call: Call, provider: Any) -> list[Any]:
    """What the call writes and returns where each float32 has been moved by one rounding."""
    step = torch.finfo(torch.float32).eps
    for place, x in list(call.tensors()):
        if x.dtype == torch.float32 and plain(x):
            signs = torch.arange(x.numel()).remainder(2).mul(2).sub(1).view(x.shape)
            call = call.replaced(place, x * (1 + step * signs))
    result = call.run(provider)
    return [*(call.arguments[at] for at in written(call.op)), result]


def distance(one: Tensor, other: Tensor) -> float:
    """The most that two results of one shape differ; infinitely where one alone is no number."""
    first, second = one.cpu().double(), other.cpu().double()
    same = (first == second) | (first.isnan() & second.isnan())
    gap = (first - second).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(gap.masked_fill(same, 0.0).amax())


def grows(want: Tensor) -> bool:
    """Whether a recursion has grown far past its inputs, and every rounding with it."""
    return want.numel() > 0 and float(want.double().nan_to_num(0.0).abs().amax()) > _GROWN


def codes(got: Tensor, want: Tensor) -> bool:
    """Whether few bytes, which are float8 or powers of two, are one step apart."""
    if got.shape != want.shape or got.dtype != torch.uint8 or want.dtype != torch.uint8:
        return False
    apart = (got.int() - want.int()).abs()
    return int(apart.max()) <= 1 and int((apart > 0).sum()) <= max(1, got.numel() // 1000)


def rounding(got: Tensor, want: Tensor, most: float = 0.0) -> bool:
    """Whether the difference is small beside the largest result: sums that cancel lose bits.

    ``most``: beside this, where it is larger.

    Or, of quantised results, one step of a few that lie between two: their scales, or the values
    before, are computed in another order.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if got.dtype == torch.float8_e4m3fn:
        if not torch.equal(got.float().isnan(), want.float().isnan()):
            return False
        apart = (_steps(got) - _steps(want)).abs()
        return int(apart.max()) <= 1 and int((apart > 0).sum()) <= max(1, got.numel() // 1000)
    if got.dtype not in FLOATS:
        return False
    wide, exact = got.double(), want.double()
    finite = exact.isfinite()
    if not torch.equal(finite, wide.isfinite()):
        return False
    gap = (wide - exact)[finite].abs().amax()
    largest = max(most, float(exact[finite].abs().amax()))
    return bool(gap <= 8 * torch.finfo(got.dtype).eps * largest)
