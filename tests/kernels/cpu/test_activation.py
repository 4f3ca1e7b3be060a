"""Activations against float64 PyTorch, per tier."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

ops = torch.ops.vllm_kernels
Function = Callable[[torch.Tensor], torch.Tensor]


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """0.5 (1 + tanh u) as a sigmoid: tanh would cancel for negative x, in float64 too."""
    u = 0.7978845608028654 * (x + 0.044715 * x**3)
    return x * torch.sigmoid(2 * u)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.special.erfc(-x / 2**0.5) / 2


GATED: dict[str, Function] = {
    "silu_and_mul": lambda x: x * torch.sigmoid(x),
    "gelu_and_mul": gelu,
    "gelu_tanh_and_mul": gelu_tanh,
}
PLAIN: dict[str, Function] = {
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_tanh": gelu_tanh,
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
}

# Unit roundoff, and in float32 the rounding of the exponential's argument, up to 88, as well.
RTOL = {torch.float32: 1.2e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
# Half the smallest subnormal; in float32 that of the sigmoid times x, down to -104.
ATOL = {torch.float32: 1e-43, torch.bfloat16: 2.0**-134, torch.float16: 2.0**-25 * 1.001}


def check(actual: torch.Tensor, exact: torch.Tensor, up: torch.Tensor | None = None) -> None:
    """`exact` times `up` within the error of one rounding, or of one before the product too."""
    rtol, atol = RTOL[actual.dtype], ATOL[actual.dtype]
    want = exact
    bound = rtol * exact.abs() + atol
    if up is not None:
        want = exact * up.double()
        bound = 2.01 * rtol * want.abs() + atol * (1 + up.double().abs())
    got = actual.double()
    wrong = ~(((got - want).abs() <= bound) | (got == want) | (got.isnan() & want.isnan()))
    assert not bool(wrong.any()), (got[wrong][:5], want[wrong][:5], int(wrong.sum()))


def every_value(dtype: torch.dtype) -> torch.Tensor:
    """All bit patterns of a 16-bit dtype; for float32, 2^16 spread over all of its patterns."""
    bits = torch.arange(1 << 16, dtype=torch.int32)
    if dtype == torch.float32:
        return ((bits << 16) | (bits * 40503 & 0xFFFF)).view(torch.float32)
    return bits.to(torch.uint16).view(dtype)


@pytest.mark.parametrize("shape", [(1, 2), (1, 22016), (7, 66), (3, 5, 254), (0, 64), (2, 50002)])
@pytest.mark.parametrize("op", GATED)
def test_gated(tier: str, dtype: torch.dtype, op: str, shape: tuple[int, ...]) -> None:
    x = (torch.randn(shape) * 3).to(dtype)
    gate, up = x.chunk(2, -1)
    out = torch.full_like(gate, float("nan"), memory_format=torch.contiguous_format)
    getattr(ops, op)(out, x)
    check(out, GATED[op](gate.double()), up)


@pytest.mark.parametrize("shape", [(1,), (4097,), (7, 33), (3, 5, 127), (0, 64), (2, 30001)])
@pytest.mark.parametrize("op", PLAIN)
def test_plain(tier: str, dtype: torch.dtype, op: str, shape: tuple[int, ...]) -> None:
    x = (torch.randn(shape) * 3).to(dtype)
    out = torch.full_like(x, float("nan"))
    getattr(ops, op)(out, x)
    check(out, PLAIN[op](x.double()))


@pytest.mark.parametrize("op", PLAIN)
def test_every_value(tier: str, dtype: torch.dtype, op: str) -> None:
    """Over the whole range: subnormals, zeros, the largest, infinities (-inf: NaN) and NaNs."""
    x = every_value(dtype)
    out = torch.empty_like(x)
    getattr(ops, op)(out, x)
    exact = PLAIN[op](x.double())
    exact[x == float("-inf")] = float("nan")  # -inf * 0, as in PyTorch
    check(out, exact)


@pytest.mark.parametrize("op", GATED)
def test_gated_every_value(tier: str, dtype: torch.dtype, op: str) -> None:
    gate = every_value(dtype)
    x = torch.stack((gate, torch.ones_like(gate)), 0).flatten()
    out = torch.empty_like(gate)
    getattr(ops, op)(out, x)
    exact = GATED[op](gate.double())
    exact[gate == float("-inf")] = float("nan")
    check(out, exact)


@pytest.mark.parametrize("op", GATED)
def test_bfloat16_rounds_as_pytorch(tier: str, op: str) -> None:
    """The product of two rounded values, bit for bit: ties, subnormals, overflow to infinity."""
    up = every_value(torch.bfloat16)
    up = up[~up.isnan()]
    for value in (1.0, 3.0, 20.0):
        gate = torch.full_like(up, value)
        out = torch.empty_like(up)
        getattr(ops, op)(out, torch.cat((gate, up)))
        activated = GATED[op](gate.double()).bfloat16()
        assert torch.equal(out, (activated.float() * up.float()).bfloat16())


@pytest.mark.parametrize("op", GATED)
def test_gated_strided(tier: str, dtype: torch.dtype, op: str) -> None:
    """Slices of wider tensors on both sides; what lies between the rows stays."""
    x = torch.randn(3, 4, 200).to(dtype)[:, 1:3, 10:150]
    wide = torch.full((2, 3, 90), 7.0, dtype=dtype)
    out = wide.transpose(0, 1)[..., 5:75]
    getattr(ops, op)(out, x)
    gate, up = x.chunk(2, -1)
    check(out, GATED[op](gate.double()), up)
    assert bool((wide[..., :5] == 7.0).all())
    assert bool((wide[..., 75:] == 7.0).all())


@pytest.mark.parametrize("op", PLAIN)
def test_plain_in_place(tier: str, dtype: torch.dtype, op: str) -> None:
    x = torch.randn(5, 77).to(dtype)
    exact = PLAIN[op](x.double())
    getattr(ops, op)(x, x)
    check(x, exact)


@pytest.mark.parametrize("op", [*GATED, *PLAIN])
def test_matches_reference(tier: str, dtype: torch.dtype, op: str) -> None:
    from vllm_kernels.reference import activation

    x = torch.randn(5, 128).to(dtype)
    out = torch.empty(5, 64 if op in GATED else 128, dtype=dtype)
    expected = torch.empty_like(out)
    getattr(ops, op)(out, x)
    getattr(activation, op)(expected, x)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("op", [*GATED, *PLAIN])
def test_bad_input(op: str, subtests: pytest.Subtests) -> None:
    call = getattr(ops, op)
    name = "result" if op == "silu_and_mul" else "out"
    width = 4 if op in GATED else 8
    x = torch.randn(2, 8)
    out = torch.empty(2, width)
    cases = [
        (out, x.double(), f"{op}: input is float64, want float32 or bfloat16 or float16"),
        (out, x.int(), f"{op}: input is int32, want float32"),
        (out.half(), x, f"{op}: {name} is float16, want float32 as input"),
        (out, torch.tensor(1.0), rf"{op}: input has shape \[\], want at least 1 dimensions"),
        (out, torch.randn(8, 2).T, f"{op}: input has stride 2 in its last dimension, want 1"),
        (torch.empty(width, 2).T, x, f"{op}: {name} has stride 2 in its last dimension, want 1"),
        (torch.empty(2, 3), x, rf"{op}: {name} has shape \[2, 3\]"),
        (torch.empty(3, width), x, rf"{op}: {name} has shape \[3, {width}\]"),
        (torch.empty(2, 1, width), x, rf"{op}: {name} has shape \[2, 1, {width}\]"),
    ]
    if op in GATED:
        cases.append((out, x[:, :7], rf"{op}: {name} has shape \[2, 4\] and input \[2, 7\], want"))
    for bad_out, bad_x, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=message):
            call(bad_out, bad_x)
