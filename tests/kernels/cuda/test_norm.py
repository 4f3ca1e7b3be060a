"""Norms, plain and fused, against float64 and against the references."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vllm_kernels.reference import norm as reference

from ..common.abi import View
from ..common.norm import exact

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
# A few roundings; the sum over a row is the same one whatever the dtype.
RTOL = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
ATOL = {torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}
# Heads, odd widths, widths of models; rows kept in registers by 1, 2 or no vectors a thread.
SHAPES = [
    (1, 1),
    (3, 64),
    (17, 100),
    (127, 128),
    (5, 257),
    (2, 3, 896),
    (300, 1024),
    (600, 4096),
    (3, 5120),
    (17, 8192),
    (600, 8192),
    (2, 20480),
    (2, 40000),
    (0, 64),
    (4, 0),
]
QUANTIZED = [(FLOAT8, False), (FLOAT8, True), (torch.int8, False)]  # dtype, bound on the scale
# Rows enough that a block takes several, one after another; a row that ends within a warp.
MANY = [(2600, 4096), (7000, 640)]


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = RTOL[actual.dtype], ATOL[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


def check_quantized(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Few elements may differ, by one step: the float32 sum of a row has no one order."""
    ours, theirs = actual.float(), expected.float()
    assert torch.equal(ours.isnan(), theirs.isnan())
    ours, theirs = ours.nan_to_num(), theirs.nan_to_num()
    step = 1.0 if actual.dtype == torch.int8 else 2.0**-9
    near = (ours - theirs).abs() <= theirs.abs() * 0.126 * (step < 1) + step
    assert bool(near.all())
    if ours.numel() > 1000:
        assert float((ours != theirs).float().mean()) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "bare"])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...], weighted: bool) -> None:
    x = randn(*shape, dtype=dtype)
    weight = randn(shape[-1], dtype=dtype) if weighted else None
    result = torch.full_like(x, float("nan"))
    ops.rms_norm(result, x, weight, 1e-6)
    check(result, exact(x, weight, 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "bare"])
def test_fused_add(dtype: torch.dtype, shape: tuple[int, ...], weighted: bool) -> None:
    x, residual = randn(2, *shape, dtype=dtype)
    weight = randn(shape[-1], dtype=dtype) if weighted else None
    total = x.double() + residual.double()
    rounded = (x.float() + residual.float()).to(dtype)
    ops.fused_add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(residual, rounded)
    check(x, exact(rounded if dtype == torch.float32 else total, weight, 1e-5))


def test_weight_for_each_of_the_first_dimension(dtype: torch.dtype) -> None:
    for shape in [(5, 96), (3, 7, 128), (2, 3, 4, 1024)]:
        x, weight = randn(*shape, dtype=dtype), randn(shape[0], shape[-1], dtype=dtype)
        ours, theirs = torch.full_like(x, 9.0), torch.empty_like(x)
        ops.rms_norm(ours, x, weight, 1e-6)
        reference.rms_norm(theirs, x, weight, 1e-6)
        check(ours, theirs.double())


def test_strided(dtype: torch.dtype) -> None:
    """Heads cut out of a fused projection, rows that are not aligned; the rest stays."""
    for first, size in ((128, 64), (3, 64), (64, 70)):
        qkv = randn(5, 12 * size + 5, dtype=dtype)
        before = qkv.clone()
        heads = qkv[:, first : first + 4 * size].view(5, 4, size)
        weight = randn(size, dtype=dtype)
        want = exact(heads, weight, 1e-6)
        ops.rms_norm(heads, heads, weight, 1e-6)  # in place
        check(heads, want)
        assert torch.equal(qkv[:, :first], before[:, :first])
        assert torch.equal(qkv[:, first + 4 * size :], before[:, first + 4 * size :])

    x = randn(4, 3, 2, 1024, dtype=dtype).permute(1, 0, 2, 3)  # rows that do not collapse
    result = torch.zeros(3, 4, 2, 1030, device="cuda", dtype=dtype)[..., 2:1026]
    ops.rms_norm(result, x, None, 1e-6)
    check(result, exact(x, None, 1e-6))
    residual = randn(3, 4, 2, 1024, dtype=dtype)
    dense_x, dense_residual = x.contiguous(), residual.clone()
    ops.fused_add_rms_norm(x, residual, None, 1e-6)
    ops.fused_add_rms_norm(dense_x, dense_residual, None, 1e-6)
    assert torch.equal(x, dense_x)
    assert torch.equal(residual, dense_residual)


def test_extreme_values(dtype: torch.dtype) -> None:
    """Zeros, subnormals, the largest values, NaN and infinity, each in a row of its own."""
    info = torch.finfo(dtype)
    for width in (72, 70, 1096):
        rows = torch.zeros(6, width, dtype=dtype, device="cuda")
        rows[1] = info.tiny / 4
        rows[2] = 3e4 if dtype == torch.float16 else 1e17  # squares within float32
        rows[3, 5] = float("nan")
        rows[4, 69] = float("inf")
        rows[5, ::2] = -0.0
        result = torch.full_like(rows, 7.0)
        ops.rms_norm(result, rows, None, 1e-6)
        finite = [0, 1, 2, 5]
        torch.testing.assert_close(
            result[finite].double(), exact(rows[finite], None, 1e-6), rtol=2e-2, atol=1e-30
        )
        assert bool(result[3].isnan().all())
        assert bool(result[4, 69].isnan())  # inf * 0
        assert not result[4, :69].any()
        assert torch.equal(result[5].signbit(), rows[5].signbit())


@pytest.mark.parametrize("shape", [(3, 64), (17, 100), (600, 4096), (2, 3, 5120), (2, 20480)])
@pytest.mark.parametrize("added", [False, True], ids=["plain", "residual"])
def test_static(dtype: torch.dtype, shape: tuple[int, ...], added: bool) -> None:
    x, residual = randn(2, *shape, dtype=dtype)
    weight, scale = randn(shape[-1], dtype=dtype), torch.tensor([0.013], device="cuda")
    outputs = []
    for module in (ops, reference):
        result = torch.full(shape, 3.0, device="cuda").to(FLOAT8)
        sums, kept = residual.clone(), x.clone()
        if added:
            module.fused_add_rms_norm_static_fp8_quant(result, x, sums, weight, scale, 1e-6)
        else:
            module.rms_norm_static_fp8_quant(result, x, weight, scale, 1e-6)
        assert torch.equal(x, kept)
        outputs.append((result, sums))
    check_quantized(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])


def test_static_is_the_two_ops(dtype: torch.dtype) -> None:
    """Bit for bit what norm and quantisation give one after the other."""
    x, weight = randn(64, 4096, dtype=dtype), randn(4096, dtype=dtype)
    scale = torch.tensor([0.02], device="cuda")
    fused = torch.empty(x.shape, dtype=FLOAT8, device="cuda")
    ops.rms_norm_static_fp8_quant(fused, x, weight, scale, 1e-6)
    y = torch.empty_like(x)
    ops.rms_norm(y, x, weight, 1e-6)
    want = (y.float() * (1.0 / scale)).clamp(-448, 448).to(FLOAT8)
    assert torch.equal(fused.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize(
    "shape", [(3, 64), (17, 100), (600, 4096), (2, 3, 5120), (2, 20480), *MANY]
)
@pytest.mark.parametrize(("out_dtype", "bounded"), QUANTIZED, ids=["fp8", "fp8-ub", "int8"])
@pytest.mark.parametrize("added", [False, True], ids=["plain", "residual"])
def test_per_token(
    dtype: torch.dtype, shape: tuple[int, ...], out_dtype: torch.dtype, bounded: bool, added: bool
) -> None:
    x, residual = randn(2, *shape, dtype=dtype)
    x[0] = residual[0] = 0.0  # a row of zeros
    weight = randn(shape[-1], dtype=dtype)
    bound = torch.tensor([1.5], device="cuda") if bounded else None
    outputs = []
    for module in (ops, reference):
        result = torch.full(shape, 3, device="cuda").to(out_dtype)
        scale = torch.full((x.numel() // shape[-1], 1), float("nan"), device="cuda")
        sums = residual.clone() if added else None
        module.rms_norm_dynamic_per_token_quant(result, x, weight, scale, 1e-6, bound, sums)
        outputs.append((result, scale, sums))
    (ours, scale, sums), (_, want, want_sums) = outputs
    torch.testing.assert_close(scale, want, rtol=RTOL[dtype], atol=0)
    assert sums is want_sums or torch.equal(sums, want_sums)
    rows = scale.view(*shape[:-1], 1)
    limit = 127 if out_dtype == torch.int8 else 448
    wide = x.float() if sums is None else x.float() + residual.float()
    y = exact(wide, weight, 1e-6).clamp(-limit * rows.double(), limit * rows.double())
    error = (ours.double() * rows - y).abs()
    step = rows * (0.502 if out_dtype == torch.int8 else 2.0**-10)
    relative = 0 if out_dtype == torch.int8 else 0.0626
    slack = RTOL[dtype] + relative
    assert bool((error <= y.abs() * slack + step).all())


@pytest.mark.parametrize("group", [64, 128])
@pytest.mark.parametrize("layout", ["rows", "transposed", "columns", "padded"])
@pytest.mark.parametrize(("out_dtype", "bounded"), QUANTIZED, ids=["fp8", "fp8-ub", "int8"])
def test_per_block(
    dtype: torch.dtype, group: int, layout: str, out_dtype: torch.dtype, bounded: bool
) -> None:
    """All layouts of the scales; rows of 1, 2 and (not aligned) no vectors in registers."""
    bound = torch.tensor([1.5], device="cuda") if bounded else None
    for tokens, width in ((3, 128), (5, 640), (600, 4096), (2, 20480), *MANY):
        groups = width // group
        wide = randn(tokens, width + 3, dtype=dtype)
        x = wide[:, 3:] if tokens == 5 else wide[:, :-3].contiguous()
        residual = randn(tokens, width, dtype=dtype) if tokens in (5, 600, 2) else None
        weight = randn(width, dtype=dtype)
        outputs = []
        for module in (ops, reference):
            if layout == "rows":
                scale = torch.full((tokens, groups), float("nan"), device="cuda")
            elif layout == "transposed":
                scale = torch.full((groups, tokens), float("nan"), device="cuda")
            elif layout == "columns":
                scale = torch.full((groups, tokens), float("nan"), device="cuda").T
            else:
                scale = torch.full((groups, tokens + 4), float("nan"), device="cuda").T[:tokens]
            result = torch.full(x.shape, 3, device="cuda").to(out_dtype)
            sums = None if residual is None else residual.clone()
            module.rms_norm_per_block_quant(
                result, x, weight, scale, 1e-6, bound, sums, group, layout != "rows"
            )
            outputs.append((result, scale, sums))
        (ours, scale, sums), (theirs, want, want_sums) = outputs
        torch.testing.assert_close(scale, want, rtol=RTOL[dtype], atol=0)
        assert sums is want_sums or torch.equal(sums, want_sums)
        got, wanted = ours.double(), theirs.double()
        by_row = scale.T if layout == "transposed" and scale.shape[0] == groups else scale
        by_want = want.T if layout == "transposed" and want.shape[0] == groups else want
        got = got.view(tokens, groups, group) * by_row[..., None]
        wanted = wanted.view(tokens, groups, group) * by_want[..., None]
        step = by_want[..., None].double() * (1.01 if out_dtype == torch.int8 else 2.0**-8)
        assert bool(((got - wanted).abs() <= wanted.abs() * 0.14 + step).all())
        assert float((ours.float() != theirs.float()).float().mean()) < 0.02


def test_graph(dtype: torch.dtype) -> None:
    """Captured and replayed on new input."""
    x, weight = randn(33, 4096, dtype=dtype), randn(4096, dtype=dtype)
    result = torch.empty_like(x)
    q = torch.empty(x.shape, dtype=FLOAT8, device="cuda")
    scale = torch.empty(33, 1, device="cuda")
    ops.rms_norm(result, x, weight, 1e-6)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.rms_norm(result, x, weight, 1e-6)
        ops.rms_norm_dynamic_per_token_quant(q, x, weight, scale, 1e-6, None, None)
    x.copy_(randn(33, 4096, dtype=dtype))
    result.zero_()
    graph.replay()
    check(result, exact(x, weight, 1e-6))
    torch.testing.assert_close(
        scale, result.float().abs().amax(-1, keepdim=True) / 448, rtol=1e-6, atol=0
    )


def test_bad_input(subtests: pytest.Subtests) -> None:
    x, weight = randn(2, 8, dtype=torch.float32), randn(8, dtype=torch.float32)
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        ("rms_norm", (x, x.double(), None, 0.0), "input is float64, want float32 or bfloat16 or"),
        ("rms_norm", (x.half(), x, None, 0.0), "result is float16, want float32 as input"),
        (
            "rms_norm",
            (x.clone()[:1], x, None, 0.0),
            r"result has shape \[1, 8\], want \[2, 8\] as input",
        ),
        ("rms_norm", (x, randn(8, 2, dtype=x.dtype).T, None, 0.0), "input has stride 2 in its l"),
        ("rms_norm", (x, x, weight[:7], 0.0), r"weight has shape \[7\], want 8 in dimension 0"),
        ("rms_norm", (x.cpu(), x, None, 0.0), "result is not on a CUDA device"),
        ("fused_add_rms_norm", (x, x.clone()[:1], None, 0.0), r"residual has shape \[1, 8\], want"),
    ]
    for name, arguments, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=f"{name}: {message}"):
            getattr(ops, name)(*arguments)


def view(*shape: int, dtype: int = 1) -> View:
    """A contiguous tensor at an address that nothing reads: checks come before launches."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    padding = [0] * (6 - len(shape))
    sizes = (ctypes.c_int64 * 6)(*shape, *padding)
    return View(4096, dtype, len(shape), sizes, (ctypes.c_int64 * 6)(*strides, *padding))


@pytest.mark.no_gpu
def test_bad_input_of_the_c_abi(
    c_library: Callable[[str], ctypes.CDLL], subtests: pytest.Subtests
) -> None:
    library = c_library("norm")
    f32, bf16, i8, f8 = 0, 1, 3, 9
    x, weight, one = view(4, 256), view(256), view(1, dtype=f32)
    q, rows, groups = view(4, 256, dtype=f8), view(4, 1, dtype=f32), view(4, 2, dtype=f32)
    epsilon = ctypes.c_double(1e-6)
    token, block = "rms_norm_dynamic_per_token_quant", "rms_norm_per_block_quant"
    cases: list[tuple[str, list[Any], str]] = [
        ("rms_norm_static_fp8_quant", [x, x, weight, one, epsilon], "result is bfloat16, want f"),
        ("rms_norm_static_fp8_quant", [q, x, None, one, epsilon], "weight is missing"),
        ("rms_norm_static_fp8_quant", [q, x, weight, rows, epsilon], "scale has shape [4, 1], wan"),
        (token, [q, x, weight, one, epsilon, None, None], "scale has shape [1], want 4 elements"),
        (
            token,
            [view(4, 256, dtype=i8), x, weight, rows, epsilon, one, None],
            "scale_ub is given with an int8 result, want none",
        ),
        (
            block,
            [q, x, weight, groups, epsilon, None, None, ctypes.c_int64(32), False],
            "group_size is 32, want 64 or 128",
        ),
        (
            block,
            [q, x, weight, rows, epsilon, None, None, ctypes.c_int64(128), True],
            "scale has shape [4, 1], want [4, 2] or its transpose",
        ),
        ("rms_norm", [view(4, 256, dtype=bf16), x, view(3, 256), epsilon], "weight has shape [3"),
    ]
    for name, arguments, message in cases:
        function = getattr(library, f"vk_cuda_{name}")
        passed = [ctypes.byref(a) if isinstance(a, View) else a for a in arguments]
        with subtests.test(message):
            assert function(*passed, None) == 1
            assert library.vk_last_error().decode().startswith(f"{name}: {message}")


@pytest.mark.parametrize("shape", [(7, 512), (300, 4096), (3000, 2048)], ids=str)
def test_norms_in_a_row(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Kernels that start before the one before has ended read what that one writes."""
    x, weight = randn(*shape, dtype=dtype), randn(shape[1], dtype=dtype)
    scales = torch.empty(shape[0], 1, device="cuda")

    def chain(wait: bool) -> list[torch.Tensor]:
        y, residual = x.clone(), x.clone()
        q = torch.empty(shape, dtype=FLOAT8, device="cuda")
        for _ in range(12):
            ops.rms_norm(y, y, weight, 1e-6)
            ops.fused_add_rms_norm(y, residual, weight, 1e-6)
            ops.rms_norm_dynamic_per_token_quant(q, y, weight, scales, 1e-6, None, None)
            torch.mul(q.to(dtype), scales.to(dtype), out=y)
            if wait:
                torch.cuda.synchronize()
        return [y, residual, scales.clone()]

    want = chain(wait=True)
    for _ in range(10):
        for got, one in zip(chain(wait=False), want, strict=True):
            assert torch.equal(got, one)
