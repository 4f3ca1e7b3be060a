"""Activations, plain, gated and quantised, against float64 and against the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from vllm_kernels.reference import activation as reference

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
RTOL = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
ATOL = {torch.float32: 1e-37, torch.bfloat16: 1e-37, torch.float16: 1e-6}
SHAPES = [(1, 1), (3, 64), (17, 100), (127, 8), (5, 257), (2, 3, 896), (4096, 768), (0, 64), (4, 0)]


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x.double())


def _cdf(x: torch.Tensor) -> torch.Tensor:
    return torch.special.erfc(-x.double() / 2**0.5) / 2


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    u = 1.5957691216057308 * (x + 0.044715 * x.pow(3))
    return x * torch.sigmoid(u)


# Of float64 values: (gate, up) to the result.
GATED: dict[str, Any] = {
    "silu_and_mul": lambda g, u: g * _sigmoid(g) * u,
    "mul_and_silu": lambda g, u: g * (u * _sigmoid(u)),
    "gelu_and_mul": lambda g, u: g * _cdf(g) * u,
    "gelu_tanh_and_mul": lambda g, u: _gelu_tanh(g) * u,
}
PLAIN: dict[str, Any] = {
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_tanh": _gelu_tanh,
    "gelu_quick": lambda x: x * _sigmoid(1.702 * x),
    "relu_squared": lambda x: x.clamp(min=0).square(),
}


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, device="cuda") * 3).to(dtype)


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = RTOL[actual.dtype], ATOL[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", GATED)
def test_gated(dtype: torch.dtype, shape: tuple[int, ...], name: str) -> None:
    x = randn(*shape[:-1], 2 * shape[-1], dtype=dtype)
    out = torch.full(shape, float("nan"), dtype=dtype, device="cuda")
    getattr(ops, name)(out, x)
    check(out, GATED[name](*x.double().chunk(2, -1)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PLAIN)
def test_plain(dtype: torch.dtype, shape: tuple[int, ...], name: str) -> None:
    x = randn(*shape, dtype=dtype)
    out = torch.full_like(x, float("nan"))
    getattr(ops, name)(out, x)
    check(out, PLAIN[name](x.double()))
    getattr(ops, name)(x, x)  # in place
    assert torch.equal(x, out)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_parameters(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = randn(*shape[:-1], 2 * shape[-1], dtype=dtype)
    for name, parameters in (
        ("fatrelu_and_mul", (0.5,)),
        ("silu_and_mul_with_clamp", (2.5,)),
        ("silu_and_mul_with_clamp", (2.5, 1.702, 1.0)),
        ("swigluoai_and_mul", ()),
        ("swigluoai_and_mul", (1.3, 2.0)),
        # Below 0 the upper limit holds.
        ("swigluoai_and_mul", (1.3, -1.0)),
        ("silu_and_mul_with_clamp", (-1.0, 1.702, 1.0)),
    ):
        ours = torch.full(shape, float("nan"), dtype=dtype, device="cuda")
        theirs = torch.empty_like(ours)
        getattr(ops, name)(ours, x, *parameters)
        getattr(reference, name)(theirs, x, *parameters)
        check(ours, theirs.double())


def test_strided(dtype: torch.dtype) -> None:
    """Rows of wider tensors on both sides, aligned and not; what lies between stays."""
    for first in (8, 3):
        x = randn(4, 3, 200, dtype=dtype).transpose(0, 1)[..., first : first + 128]
        wide = torch.full((3, 4, 90), 99.0, dtype=dtype, device="cuda")
        ops.silu_and_mul(wide[..., first : first + 64], x)
        check(wide[..., first : first + 64], GATED["silu_and_mul"](*x.double().chunk(2, -1)))
        assert bool((wide[..., :first] == 99).all())
        assert bool((wide[..., first + 64 :] == 99).all())
        ops.gelu_new(wide[..., first : first + 64], x[..., :64])
        check(wide[..., first : first + 64], PLAIN["gelu_new"](x[..., :64].double()))


def test_extreme_values(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = [0.0, -0.0, info.tiny / 2, 20.0, -20.0, -88.0, -100.0, -1e4, 1e4, float("nan")]
    gate = torch.tensor(values * 4, dtype=dtype, device="cuda")
    one = torch.ones_like(gate)
    for name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
        out = torch.empty_like(gate)
        getattr(ops, name)(out, torch.cat((gate, one)))
        want = GATED[name](gate.double(), one.double())
        assert torch.equal(out.isnan(), want.isnan())
        torch.testing.assert_close(
            out.nan_to_num().double(), want.nan_to_num(), rtol=2e-2, atol=max(ATOL[dtype], 1e-30)
        )
    limits = torch.tensor([float("inf"), info.max, 1.0, float("nan")], dtype=dtype, device="cuda")
    for name, arguments in (("swigluoai_and_mul", ()), ("silu_and_mul_with_clamp", (7.0,))):
        ours, theirs = torch.empty(2, 2, 2, dtype=dtype, device="cuda").unbind()
        x = torch.stack((limits, limits.flip(0)))
        getattr(ops, name)(ours, x, *arguments)
        getattr(reference, name)(theirs, x, *arguments)
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("shape", [(3, 64), (17, 100), (2, 3, 896), (600, 4096)])
def test_static(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Bit for bit what the activation and the quantisation give one after the other."""
    x = randn(*shape[:-1], 2 * shape[-1], dtype=dtype)
    x.view(-1)[0] = float("nan")
    scale = torch.tensor([0.013], device="cuda")
    result = torch.full(shape, 3.0, device="cuda").to(FLOAT8)
    ops.silu_and_mul_quant(result, x, scale)
    y = torch.empty(shape, dtype=dtype, device="cuda")
    ops.silu_and_mul(y, x)
    want = (y.float() * (1.0 / scale)).clamp(-448, 448).to(FLOAT8)
    assert torch.equal(result.float().nan_to_num(9.5), want.float().nan_to_num(9.5))


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("out_dtype", "bounded"), [(FLOAT8, False), (FLOAT8, True), (torch.int8, False)]
)
def test_per_block(
    dtype: torch.dtype, group: int, transposed: bool, out_dtype: torch.dtype, bounded: bool
) -> None:
    bound = torch.tensor([0.01], device="cuda") if bounded else None
    for tokens, width in ((1, 128), (5, 640), (300, 1152), (17, 4096), (4100, 2176)):
        wide = randn(tokens, 2 * width + 1, dtype=dtype)
        x = wide[:, 1:] if tokens == 5 else wide[:, :-1].contiguous()
        x[0] = 0.0
        shape = (width // group, tokens) if transposed else (tokens, width // group)
        outputs = []
        for module in (ops, reference):
            out = torch.full((tokens, width), 3, device="cuda").to(out_dtype)
            scales = torch.full(shape, float("nan"), device="cuda")
            module.silu_and_mul_per_block_quant(out, x, scales, group, bound, transposed)
            outputs.append((out.float(), scales))
        torch.testing.assert_close(outputs[0][1], outputs[1][1], rtol=3e-6, atol=0)
        step = 1.0 if out_dtype == torch.int8 else 2.0**-8
        relative = 0.0 if out_dtype == torch.int8 else 0.126
        gap = (outputs[0][0] - outputs[1][0]).abs()
        assert bool((gap <= outputs[1][0].abs() * relative + step).all())
        assert float((gap > 0).float().mean()) < 0.01


@pytest.mark.parametrize("scale", ["float", "power", "packed"])
def test_experts_rows(dtype: torch.dtype, scale: str) -> None:
    for rows, width, counts in (
        (1, 128, [1]),
        (7, 384, [0, 7, 3, -1, 100]),
        (70, 640, [(11 * i) % 71 for i in range(300)]),
    ):
        experts, groups = len(counts), width // 128
        x = randn(experts, rows, 2 * width + 16, dtype=dtype)[..., : 2 * width]  # with gaps
        x *= 10 ** torch.linspace(-4, 3, rows, device="cuda")[:, None]
        x[:, 0] = 0.0
        used = torch.tensor(counts, dtype=torch.int32, device="cuda")
        packed = scale == "packed"
        columns = -(-groups // 4) if packed else groups
        outputs = []
        for module in (ops, reference):
            out = torch.full((experts, rows, width), 3, device="cuda").to(FLOAT8)
            kind = torch.int32 if packed else torch.float32
            scales = torch.full((experts, columns, rows), 77, dtype=kind, device="cuda").mT
            module.persistent_masked_m_silu_mul_quant(x, used, out, scales, scale != "float")
            outputs.append((out.float(), scales))
        (ours, our_scales), (theirs, their_scales) = outputs
        if scale == "float":
            torch.testing.assert_close(our_scales, their_scales, rtol=3e-6, atol=0)
            assert bool(((ours - theirs).abs() <= theirs.abs() * 0.126 + 2.0**-8).all())
        else:
            # A largest value near a power of two may fall on either side of it.
            same = (our_scales == their_scales).float().mean()
            assert float(same) > 0.99
        assert float((ours != theirs).float().mean()) < 0.01


def test_graph(dtype: torch.dtype) -> None:
    x = randn(33, 512, dtype=dtype)
    out = torch.empty(33, 256, dtype=dtype, device="cuda")
    ops.silu_and_mul(out, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.silu_and_mul(out, x)
    x.copy_(randn(33, 512, dtype=dtype))
    graph.replay()
    gate, up = x.double().chunk(2, -1)
    check(out, F.silu(gate) * up)


def test_bad_input(subtests: pytest.Subtests) -> None:
    x = randn(4, 8, dtype=torch.float32)
    out, q = torch.empty(4, 4, device="cuda"), torch.empty(4, 4, device="cuda").to(FLOAT8)
    one = torch.ones(1, device="cuda")
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        ("silu_and_mul", (out, x.double()), "input is float64, want float32 or bfloat16 or float"),
        ("silu_and_mul", (out[:3], x), r"result has shape \[3, 4\] and input \[4, 8\], want input"),
        ("gelu_new", (out, x), r"out has shape \[4, 4\], want \[4, 8\] as input"),
        ("silu_and_mul_quant", (out, x, one), "result is float32, want float8_e4m3fn"),
        ("silu_and_mul_quant", (q, x, out), r"scale has shape \[4, 4\], want 1 element"),
        ("silu_and_mul_per_block_quant", (q, x, one, 32), "group_size is 32, want 64 or 128"),
        ("silu_and_mul_per_block_quant", (q, x, one, 64), "out has 4 columns, want a multiple of"),
        (
            "persistent_masked_m_silu_mul_quant",
            (x[None], torch.ones(1, dtype=torch.int32, device="cuda"), q[None], out[None], False),
            "input has 8 columns, want a multiple of 256",
        ),
    ]
    for name, arguments, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=f"{name}: {message}"):
            getattr(ops, name)(*arguments)
