"""float8 quantisation, per tier: exact, since each value is rounded once or twice as defined."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference import quant as reference

from ..common.quant import SCALE_GROUPS

ops = torch.ops.vllm_kernels
FLOAT8 = torch.float8_e4m3fn
SHAPES = [(1, 1), (1, 4096), (7, 33), (3, 5, 127), (2, 31), (0, 64), (300, 200)]


def poisoned(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.full(shape, 0x7F, dtype=torch.uint8).view(FLOAT8)


def float8(x: torch.Tensor) -> torch.Tensor:
    """Saturated, to nearest even, a NaN kept: by PyTorch, from float32."""
    return x.clamp(-448, 448).to(FLOAT8)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal bytes but for the sign of a NaN."""
    a, b = actual.float(), expected.float()
    assert torch.equal(a.isnan(), b.isnan())
    assert torch.equal(a.nan_to_num(), b.nan_to_num())
    assert torch.equal(a.signbit() & ~a.isnan(), b.signbit() & ~b.isnan())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dims", [0, 1, 2])
def test_one_scale(tier: str, dtype: torch.dtype, shape: tuple[int, ...], dims: int) -> None:
    x, scale = (torch.randn(shape) * 3).to(dtype), torch.tensor([0.013]).reshape((1,) * dims)
    result = poisoned(shape)
    ops.static_scaled_fp8_quant(result, x, scale)
    same(result, float8(x.float() * (1 / scale.reshape(()))))


@pytest.mark.parametrize(("scale_shape", "group_shape"), SCALE_GROUPS)
def test_groups(
    tier: str, dtype: torch.dtype, scale_shape: tuple[int, ...], group_shape: list[int] | None
) -> None:
    scale = torch.rand(scale_shape) * 0.1 + 0.01
    rows, columns = {(24,): (24, 1), (640,): (1, 640), (5,): (1, 5)}.get(scale_shape, scale_shape)
    spread = scale.view(rows, columns).repeat_interleave(24 // rows, 0)
    spread = spread.repeat_interleave(640 // columns, 1)
    for x in (
        torch.randn(24, 640).to(dtype),
        torch.randn(2, 12, 640).to(dtype),
        torch.randn(24, 651).to(dtype)[:, 3:643],
    ):
        expected = float8(x.float() * (1 / spread).view(x.shape))
        result = poisoned(x.shape)
        ops.static_scaled_fp8_quant(result, x, scale, group_shape)
        same(result, expected)
        if scale.dim() == 2:  # strided, transposed
            wide = torch.zeros(scale.shape[1] + 2, scale.shape[0] + 1)
            wide[1:-1, :-1] = scale.T
            ops.static_scaled_fp8_quant(result, x, wide[1:-1, :-1].T, group_shape)
            same(result, expected)


def test_values(tier: str, dtype: torch.dtype) -> None:
    """Every float8 value, ties between them, the extremes, NaN."""
    codes = torch.arange(256, dtype=torch.uint8).view(FLOAT8).float()
    finite = codes[codes.isfinite()].sort().values
    info = torch.finfo(dtype)
    special = [float("inf"), float("-inf"), float("nan"), info.max, info.min, info.tiny, 449, 480]
    x = torch.cat((finite, (finite[1:] + finite[:-1]) / 2, torch.tensor(special))).to(dtype)
    result = poisoned(x.shape)
    ops.static_scaled_fp8_quant(result, x, torch.ones(1))
    same(result, float8(x.float()))
    by_column = poisoned((1, *x.shape))
    ops.static_scaled_fp8_quant(by_column, x[None], torch.ones(x.shape), [-1, 1])
    same(by_column[0], result)


@pytest.mark.parametrize("shape", SHAPES)
def test_measured(tier: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for x in ((torch.randn(shape) * 3).to(dtype), torch.zeros(shape, dtype=dtype)):
        result, scale = poisoned(shape), torch.full((1,), float("nan"))
        ops.dynamic_scaled_fp8_quant(result, x, scale)
        largest = x.float().abs().amax() if x.numel() else torch.zeros(())
        assert torch.equal(scale[0], largest / torch.tensor(448.0))
        factor = 1 / scale[0] if scale[0] > 0 else torch.zeros(())
        same(result, float8(x.float() * factor))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bound", [None, 2.0, 0.0])
def test_measured_by_row(
    tier: str, dtype: torch.dtype, shape: tuple[int, ...], bound: float | None
) -> None:
    x = torch.randn(shape).to(dtype)
    x[:1] = 0.0
    x[1:2] *= 1e-3
    most = None if bound is None else torch.tensor([bound])
    result, scale = poisoned(shape), torch.full((*shape[:-1], 1), float("nan"))
    ops.dynamic_per_token_scaled_fp8_quant(result, x, scale, most)
    largest = x.float().abs().amax(-1, keepdim=True)
    if bound is not None:
        largest = largest.clamp_max(bound)
    assert torch.equal(scale, (largest / torch.tensor(448.0)).clamp_min(1 / (448 * 512)))
    same(result, float8(x.float() / scale))


def test_strided(tier: str, dtype: torch.dtype) -> None:
    """Rows of a wider tensor on both sides; what lies between stays."""
    x, wide, scale = torch.randn(6, 100).to(dtype)[:, 10:77], poisoned((6, 90)), torch.empty(6, 1)
    ops.dynamic_per_token_scaled_fp8_quant(wide[:, 5:72], x, scale, None)
    same(wide[:, 5:72], float8(x.float() / scale))
    assert bool((wide.view(torch.uint8)[:, :5] == 0x7F).all())
    assert bool((wide.view(torch.uint8)[:, 72:] == 0x7F).all())


def test_rows_without_values(tier: str) -> None:
    x, result = torch.empty(3, 0), torch.empty(3, 0).to(FLOAT8)
    rows, one = torch.full((3,), float("nan")), torch.full((1,), float("nan"))
    ops.dynamic_per_token_scaled_fp8_quant(result, x, rows, None)
    ops.dynamic_scaled_fp8_quant(result, x, one)
    ops.static_scaled_fp8_quant(result, x, one)
    assert (rows.tolist(), one.tolist()) == ([0.0] * 3, [0.0])


def test_no_rows_with_a_scale_for_each_column(tier: str) -> None:
    x, result = torch.empty(0, 64), torch.empty(0, 64).to(FLOAT8)
    ops.static_scaled_fp8_quant(result, x, torch.ones(64), [-1, 1])
    ops.static_scaled_fp8_quant(result, x, torch.ones(1, 4), [-1, 16])


def test_a_scale_of_zero_gives_zeros(tier: str) -> None:
    x, result = torch.randn(4, 40), poisoned((4, 40))
    for scale, groups in ((torch.zeros(1), None), (torch.zeros(40), [-1, 1])):
        ops.static_scaled_fp8_quant(result, x, scale, groups)
        assert not result.float().any()
        reference.static_scaled_fp8_quant(result, x, scale, groups)
        assert not result.float().any()


def test_bad_input(subtests: pytest.Subtests) -> None:
    x, one, rows, q = torch.zeros(4, 8), torch.ones(1), torch.ones(4), torch.zeros(4, 8).to(FLOAT8)
    static, by_row = "static_scaled_fp8_quant", "dynamic_per_token_scaled_fp8_quant"
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        (static, (x.char(), x, one), "result is int8, want float8_e4m3fn"),
        (static, (q[:3], x, one), r"result has shape \[3, 8\]"),
        (static, (q, x.double(), one), "input is float64"),
        (static, (q, x, one.double()), "scale is float64"),
        (static, (q, x, rows), r"scale has shape \[4\] without a group_shape"),
        (static, (q, x, rows, [3, -1]), "groups of 3 rows do not divide"),
        (static, (q, x, rows, [0, -1]), "groups of 0 rows do not divide"),
        (static, (q, x, rows, [1, 4]), r"scale has shape \[4\], want \[4, 2\]"),
        (static, (q, x, rows, [2]), "group_shape has 1 elements, want 2"),
        (static, (q, x, torch.ones(2, 2, 2)), "want one element, 1 or 2 dimensions"),
        ("dynamic_scaled_fp8_quant", (q, x, rows), r"scale has shape \[4\], want one element"),
        (by_row, (q, x, one, None), r"scale has shape \[1\], want 4"),
        (by_row, (q, x, rows, rows.clone()), r"scale_ub has shape \[4\], want one element"),
    ]
    for name, arguments, message in cases:
        with (
            subtests.test(name, message=message),
            pytest.raises(RuntimeError, match=f"^{name}: .*{message}"),
        ):
            getattr(ops, name)(*arguments)
