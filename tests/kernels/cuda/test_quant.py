"""Quantisation: exact where the rounding is defined, else against the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference import quant as reference

from ..common.quant import SCALE_GROUPS

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
SHAPES = [(1, 1), (7, 33), (3, 5, 127), (0, 64), (300, 200), (17, 8192), (600, 4096), (2, 40000)]


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, device="cuda") * 3).to(dtype)


def poisoned(shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, 99, device="cuda").to(dtype)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal, NaN and the sign of zero too."""
    assert actual.dtype == expected.dtype
    if actual.dtype == FLOAT8:
        actual, expected = actual.view(torch.uint8), expected.view(torch.uint8)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def compare(name: str, outputs: dict[str, torch.Tensor], **arguments: Any) -> None:
    """Call op and reference on copies of `outputs` and compare those bit by bit."""
    results = []
    for module in (ops, reference):
        written = {key: value.clone() for key, value in outputs.items()}
        getattr(module, name)(**written, **arguments)
        results.append(written)
    for key in outputs:
        same(results[0][key], results[1][key])


@pytest.mark.parametrize("shape", SHAPES)
def test_static_fp8(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = randn(*shape, dtype=dtype)
    scale = torch.tensor([0.013], device="cuda")
    compare("static_scaled_fp8_quant", {"result": poisoned(shape, FLOAT8)}, input=x, scale=scale)
    scale = scale.reshape(())
    compare("static_scaled_fp8_quant", {"result": poisoned(shape, FLOAT8)}, input=x, scale=scale)


@pytest.mark.parametrize(("scale_shape", "group_shape"), SCALE_GROUPS)
def test_static_fp8_groups(
    dtype: torch.dtype, scale_shape: tuple[int, ...], group_shape: list[int] | None
) -> None:
    scale = torch.rand(scale_shape, device="cuda") * 0.1 + 0.01
    for x in (
        randn(24, 640, dtype=dtype),
        randn(2, 12, 640, dtype=dtype),
        randn(24, 651, dtype=dtype)[:, 3:643],
    ):
        result = {"result": poisoned(x.shape, FLOAT8)}
        arguments = {"input": x, "group_shape": group_shape}
        compare("static_scaled_fp8_quant", result, scale=scale, **arguments)
        if scale.dim() == 2:
            wide = torch.zeros(scale.shape[1] + 2, scale.shape[0] + 1, device="cuda")
            wide[1:-1, :-1] = scale.T  # strided, transposed
            compare("static_scaled_fp8_quant", result, scale=wide[1:-1, :-1].T, **arguments)


def test_static_fp8_values(dtype: torch.dtype) -> None:
    """Every float8 value, ties between them, the extremes, NaN."""
    codes = torch.arange(256, dtype=torch.uint8, device="cuda").view(FLOAT8).float()
    finite = codes[codes.isfinite()].sort().values
    ties = (finite[1:] + finite[:-1]) / 2
    info = torch.finfo(dtype)
    special = torch.tensor(
        [
            float("inf"),
            float("-inf"),
            float("nan"),
            info.max,
            info.min,
            info.tiny,
            448,
            449,
            464,
            480,
        ],
        device="cuda",
    )
    x = torch.cat((finite, ties, special)).to(dtype)
    result = poisoned(x.shape, FLOAT8)
    ops.static_scaled_fp8_quant(result, x, torch.ones(1, device="cuda"))
    same(result, x.float().clamp(-448, 448).to(FLOAT8))


@pytest.mark.parametrize("shape", SHAPES)
def test_dynamic_fp8(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = randn(*shape, dtype=dtype)
    outputs = {
        "result": poisoned(shape, FLOAT8),
        "scale": torch.full((1,), float("nan"), device="cuda"),
    }
    compare("dynamic_scaled_fp8_quant", outputs, input=x)
    compare("dynamic_scaled_fp8_quant", outputs, input=torch.zeros_like(x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bounded", [False, True])
def test_dynamic_per_token_fp8(dtype: torch.dtype, shape: tuple[int, ...], bounded: bool) -> None:
    x = randn(*shape, dtype=dtype)
    x[:1] = 0.0
    x[1:2] *= 1e-3
    bound = torch.tensor([2.0], device="cuda") if bounded else None
    scale = torch.full((*shape[:-1], 1), float("nan"), device="cuda")
    outputs = {"result": poisoned(shape, FLOAT8), "scale": scale}
    compare("dynamic_per_token_scaled_fp8_quant", outputs, input=x, scale_ub=bound)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zero_point", [None, 0, 5, -128, 300])
def test_static_int8(dtype: torch.dtype, shape: tuple[int, ...], zero_point: int | None) -> None:
    x = randn(*shape, dtype=dtype)
    azp = None
    if zero_point is not None:
        azp = torch.tensor([zero_point], dtype=torch.int32, device="cuda")
    scale = torch.tensor([0.037], device="cuda")
    result = {"result": poisoned(shape, torch.int8)}
    compare("static_scaled_int8_quant", result, input=x, scale=scale, azp=azp)


def test_static_int8_ties_and_extremes(dtype: torch.dtype) -> None:
    halves = torch.arange(-140, 140, device="cuda") + 0.5
    x = torch.cat((halves, halves.round())).to(dtype)
    result = poisoned(x.shape, torch.int8)
    one = torch.ones(1, device="cuda")
    ops.static_scaled_int8_quant(result, x, one, None)
    assert torch.equal(result, x.float().round().clamp(-128, 127).to(torch.int8))
    # The tie is x's own: an odd zero point must not turn it.
    ops.static_scaled_int8_quant(result, x, one, one.int())
    assert torch.equal(result, (x.float().round() + 1).clamp(-128, 127).to(torch.int8))
    info = torch.finfo(dtype)
    values = [float("inf"), float("-inf"), float("nan"), info.max, info.min, info.tiny / 2, -0.0]
    x = torch.tensor(values * 5, dtype=dtype, device="cuda")
    result = poisoned(x.shape, torch.int8)
    ops.static_scaled_int8_quant(result, x, one / 2, None)
    assert result.view(5, -1).tolist() == [[127, -128, 0, 127, -128, 0, 0]] * 5
    ops.static_scaled_int8_quant(result, x, one * 0, None)
    assert result.view(5, -1).tolist() == [[127, -128, 0, 127, -128, 127, 0]] * 5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [None, 0.0, 4.0, -20.0])
def test_dynamic_int8(dtype: torch.dtype, shape: tuple[int, ...], offset: float | None) -> None:
    x = (torch.randn(shape, device="cuda") + (offset or 0.0)).to(dtype)
    x[:1] = 0.0
    x[1:2] = 3.0
    outputs = {
        "result": poisoned(shape, torch.int8),
        "scale": torch.full((*shape[:-1], 1), float("nan"), device="cuda"),
    }
    if offset is None:
        compare("dynamic_scaled_int8_quant", outputs, input=x, azp=None)
        return
    outputs["azp"] = torch.full((*shape[:-1], 1), 12345, dtype=torch.int32, device="cuda")
    compare("dynamic_scaled_int8_quant", outputs, input=x)


@pytest.mark.parametrize("out_dtype", [FLOAT8, torch.int8], ids=["fp8", "int8"])
@pytest.mark.parametrize("group", [32, 64, 128, 256, 20])
@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_groups(dtype: torch.dtype, out_dtype: torch.dtype, group: int, columns: bool) -> None:
    name = "per_token_group_fp8_quant" if out_dtype == FLOAT8 else "per_token_group_quant_int8"
    largest = 448.0 if out_dtype == FLOAT8 else 127.0
    least = -448.0 if out_dtype == FLOAT8 else -128.0
    for shape in ((1, group), (7, 5 * group), (3, 2, 6 * group), (300, 16 * group), (0, group)):
        x = randn(*shape, dtype=dtype)
        x[:1] = 0.0
        groups = shape[-1] // group
        if columns:
            flat = torch.full((groups, x.numel() // shape[-1] + 3), float("nan"), device="cuda")
            scales = flat.T[:-3]
        else:
            scales = torch.full((*shape[:-1], groups), float("nan"), device="cuda")
        powers = [False, True] if out_dtype == FLOAT8 else [None]
        for power in powers:
            results = []
            for module in (ops, reference):
                q = poisoned(shape, out_dtype)
                scales.fill_(float("nan"))
                rest = () if power is None else (power, columns, False)
                getattr(module, name)(x, q, scales, group, 1e-10, least, largest, *rest)
                results.append((q, scales.clone()))
            same(results[0][1], results[1][1])
            same(results[0][0], results[1][0])


@pytest.mark.parametrize("padded", [False, True])
def test_groups_packed(dtype: torch.dtype, padded: bool) -> None:
    for rows, groups in ((1, 1), (5, 3), (8, 8), (257, 17)):
        x = randn(rows, groups * 128, dtype=dtype)
        x *= torch.logspace(-3, 3, rows, device="cuda").to(dtype)[:, None]
        whole = -(-rows // 4) * 4
        results = []
        for module in (ops, reference):
            q = poisoned((whole if padded else rows, groups * 128), FLOAT8)
            memory = torch.full((-(-groups // 4), whole), -1, dtype=torch.int32, device="cuda")
            scales = memory.T[:rows]
            module.per_token_group_fp8_quant_packed(x, q, scales, 128, 1e-10, -448.0, 448.0)
            results.append((q, scales.clone()))
        same(results[0][1], results[1][1])
        same(results[0][0], results[1][0])


def test_strided(dtype: torch.dtype) -> None:
    """Rows of wider tensors on both sides, aligned and not; what lies between stays."""
    for first in (16, 5):
        x = randn(6, 400, dtype=dtype)[:, first : first + 256]
        wide = poisoned((6, 300), torch.int8)
        part = wide[:, first : first + 256]
        scale, azp = torch.empty(6, 1, device="cuda"), torch.empty(6, 1, device="cuda").int()
        ops.dynamic_scaled_int8_quant(part, x, scale, azp)
        dense, dense_scale, dense_azp = poisoned((6, 256), torch.int8), scale.clone(), azp.clone()
        reference.dynamic_scaled_int8_quant(dense, x.contiguous(), dense_scale, dense_azp)
        same(part.contiguous(), dense)
        same(scale, dense_scale)
        same(azp, dense_azp)
        groups = torch.empty(6, 2, device="cuda")
        ops.per_token_group_quant_int8(x, part, groups, 128, 1e-10, -128.0, 127.0)
        reference.per_token_group_quant_int8(x, dense, groups, 128, 1e-10, -128.0, 127.0)
        same(part.contiguous(), dense)
        assert bool((wide[:, :first] == 99).all())
        assert bool((wide[:, first + 256 :] == 99).all())


def test_graph(dtype: torch.dtype) -> None:
    """The tensor's scale starts from 0 in each replay."""
    x = randn(33, 512, dtype=dtype) * 100
    result, scale = poisoned(x.shape, FLOAT8), torch.empty(1, device="cuda")
    ops.dynamic_scaled_fp8_quant(result, x, scale)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.dynamic_scaled_fp8_quant(result, x, scale)
    x.copy_(randn(33, 512, dtype=dtype))
    graph.replay()
    want, want_scale = poisoned(x.shape, FLOAT8), torch.empty(1, device="cuda")
    reference.dynamic_scaled_fp8_quant(want, x, want_scale)
    same(scale, want_scale)
    same(result, want)


def test_rows_without_values() -> None:
    """Of no rows, the width may be any."""
    x = torch.empty(129, 0, device="cuda")
    scale = torch.full((129, 1), 7.0, device="cuda")
    azp = torch.full((129, 1), 7, device="cuda", dtype=torch.int32)
    ops.dynamic_scaled_int8_quant(x.to(torch.int8), x, scale, azp)
    assert not scale.any()
    assert not azp.any()
    wide, none = torch.empty(0, 2**40, device="cuda"), torch.empty(0, 1, device="cuda")
    ops.dynamic_scaled_int8_quant(wide.to(torch.int8), wide, none, None)
    ops.dynamic_per_token_scaled_fp8_quant(wide.to(FLOAT8), wide, none, None)
    ops.static_scaled_fp8_quant(wide.to(FLOAT8), wide, torch.ones(1, device="cuda"), None)


def test_bad_input(subtests: pytest.Subtests) -> None:
    x = randn(4, 256, dtype=torch.float32)
    q, i8 = poisoned(x.shape, FLOAT8), poisoned(x.shape, torch.int8)
    one, rows = torch.ones(1, device="cuda"), torch.ones(4, 1, device="cuda")
    group = "per_token_group_quant_int8"
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        ("static_scaled_fp8_quant", (i8, x, one), "result is int8, want float8_e4m3fn"),
        ("static_scaled_fp8_quant", (q, x, rows.flatten()), r"scale has shape \[4\] without a gr"),
        ("static_scaled_fp8_quant", (q, x, rows.flatten(), [3, -1]), "groups of 3 rows do not di"),
        (
            "static_scaled_fp8_quant",
            (q, x, rows, [2, -1]),
            r"scale has shape \[4, 1\], want \[2, 1",
        ),
        ("static_scaled_fp8_quant", (q, x, rows, [2]), "group_shape has 1 elements, want 2"),
        ("dynamic_scaled_fp8_quant", (q, x, rows), r"scale has shape \[4, 1\], want 1 elements"),
        ("dynamic_per_token_scaled_fp8_quant", (q, x, one, None), r"scale has shape \[1\], want 4"),
        ("static_scaled_int8_quant", (q, x, one, None), "result is float8_e4m3fn, want int8"),
        ("dynamic_scaled_int8_quant", (i8, x, rows, one), "azp is float32, want int32"),
        (
            group,
            (x, i8, rows, 100, 0.0, -128.0, 127.0),
            "input has shape .* multiple of group_size",
        ),
        (group, (x, i8, rows, 128, 0.0, -128.0, 127.0), r"output_s has shape \[4, 1\], want 2"),
        (group, (x, i8, rows, 256, 0.0, 1.0, 127.0), "the range is 1 to 127, want 0 in it"),
    ]
    for name, arguments, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=f"{name}: {message}"):
            getattr(ops, name)(*arguments)
