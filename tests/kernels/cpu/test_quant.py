"""int8 quantisation, per tier: exact where the rounding is defined, else by the error it leaves."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference import quant as reference

ops = torch.ops.vllm_kernels
SHAPES = [(1, 1), (1, 4096), (7, 33), (3, 5, 127), (2, 31), (4, 15), (0, 64), (300, 200)]


def quantized(x: torch.Tensor, scale: torch.Tensor, azp: torch.Tensor | int) -> torch.Tensor:
    """Exact integers, from the float32 product that the op is defined by."""
    q = (x.float() * (1.0 / scale)).double().round() + azp
    return q.clamp(-128, 127).to(torch.int8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zero_point", [None, 0, 5, -128, 300, -(2**31), 2**31 - 1])
def test_static(
    tier: str, dtype: torch.dtype, shape: tuple[int, ...], zero_point: int | None
) -> None:
    x = (torch.randn(shape) * 2).to(dtype)
    scale = torch.tensor([0.037])
    azp = None if zero_point is None else torch.tensor([zero_point], dtype=torch.int32)
    result = torch.full(shape, 99, dtype=torch.int8)
    ops.static_scaled_int8_quant(result, x, scale, azp)
    assert torch.equal(result, quantized(x, scale, zero_point or 0))


def test_static_rounds_half_to_even(tier: str, dtype: torch.dtype) -> None:
    halves = torch.arange(-140, 140) + 0.5
    x = torch.cat((halves, halves.round())).to(dtype)
    result = torch.empty(x.shape, dtype=torch.int8)
    ops.static_scaled_int8_quant(result, x, torch.ones(1), None)
    assert torch.equal(result, x.float().round().clamp(-128, 127).to(torch.int8))
    # The tie is x's own: an odd zero point must not turn it.
    ops.static_scaled_int8_quant(result, x, torch.ones(1), torch.tensor([1], dtype=torch.int32))
    assert torch.equal(result, (x.float().round() + 1).clamp(-128, 127).to(torch.int8))


def test_static_extremes(tier: str, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = [float("inf"), float("-inf"), float("nan"), info.max, info.min, info.tiny / 2, -0.0]
    x = torch.tensor(values * 5, dtype=dtype)
    result = torch.empty(x.shape, dtype=torch.int8)
    ops.static_scaled_int8_quant(result, x, torch.tensor([0.5]), None)
    assert result.view(5, -1).tolist() == [[127, -128, 0, 127, -128, 0, 0]] * 5


@pytest.mark.parametrize("shape", SHAPES)
def test_dynamic_symmetric(tier: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (torch.randn(shape) * 3).to(dtype)
    result = torch.full(shape, 99, dtype=torch.int8)
    scale = torch.full((*shape[:-1], 1), float("nan"))
    ops.dynamic_scaled_int8_quant(result, x, scale, None)
    assert torch.equal(scale, x.float().abs().amax(-1, keepdim=True) / 127)
    assert torch.equal(result, quantized(x, scale, 0))


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_row_that_is_not_finite_is_its_own_affair(
    tier: str, dtype: torch.dtype, special: float, asymmetric: bool
) -> None:
    """Its result is unspecified, which the docstring says; the rows beside it are as ever."""
    x = (torch.randn(5, 67) * 3).to(dtype)
    whole, spoilt = x.clone(), x.clone()
    spoilt[2, 40] = special
    results = []
    for values in (whole, spoilt):
        result, scale = torch.full(x.shape, 99, dtype=torch.int8), torch.full((5, 1), float("nan"))
        azp = torch.full((5, 1), 12345, dtype=torch.int32) if asymmetric else None
        ops.dynamic_scaled_int8_quant(result, values, scale, azp)
        results.append([result, scale] + [azp] * asymmetric)
    beside = torch.tensor([0, 1, 3, 4])
    for right, found in zip(*results, strict=True):
        assert torch.equal(right[beside], found[beside])
    said = " ".join((reference.dynamic_scaled_int8_quant.__doc__ or "").split())
    assert "A row with a NaN or an infinity has an unspecified scale and result" in said


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 4.0, -20.0])
def test_dynamic_asymmetric(
    tier: str, dtype: torch.dtype, shape: tuple[int, ...], offset: float
) -> None:
    x = (torch.randn(shape) + offset).to(dtype)
    result = torch.full(shape, 99, dtype=torch.int8)
    scale = torch.full((*shape[:-1], 1), float("nan"))
    azp = torch.full((*shape[:-1], 1), 12345, dtype=torch.int32)
    ops.dynamic_scaled_int8_quant(result, x, scale, azp)
    if x.shape[-1] > 1 and x.numel():
        low, high = x.float().aminmax(dim=-1, keepdim=True)
        assert torch.equal(scale, (high - low) / 255)
        assert torch.equal(azp, (-128 - low / scale).round().int())
        assert torch.equal(result, quantized(x, scale, azp))
    # Every value comes back within half a step, and half a step more for the rounded zero point.
    back = scale * (result.int() - azp).float()
    assert bool(((back - x.float()).abs() <= scale * 1.01 + 1e-6).all())


def test_dynamic_degenerate_rows(tier: str, dtype: torch.dtype) -> None:
    """Zeros, one value throughout, a range too narrow for its offset, subnormals, the extremes."""
    info = torch.finfo(dtype)
    rows = [
        [0.0] * 40,
        [3.0] * 40,
        [-3.0] * 40,
        [1024.0] * 39 + [1024.0 * (1 + info.eps)],
        [info.tiny / 4, 0.0] * 20,
        [info.max, info.min] * 20,
        [info.max, 0.0] * 20,
    ]
    x = torch.tensor(rows, dtype=dtype)
    for asymmetric in (False, True):
        result = torch.empty(x.shape, dtype=torch.int8)
        scale = torch.empty(len(rows), 1)
        azp = torch.empty(len(rows), 1, dtype=torch.int32) if asymmetric else None
        ops.dynamic_scaled_int8_quant(result, x, scale, azp)
        assert bool(scale.isfinite().all())
        q = result.double() if azp is None else result.double() - azp
        error = (scale.double() * q - x.double()).abs()
        assert bool((error <= scale.double() * 1.01 + 1e-38).all())
        assert scale[0] == 0
        assert not result[0].any()
        torch.testing.assert_close(scale[1, 0] * q[1, 0].float(), torch.tensor(3.0))


def test_strided(tier: str, dtype: torch.dtype) -> None:
    """Rows of a wider tensor on both sides; what lies between stays."""
    x = torch.randn(6, 100).to(dtype)[:, 10:77]
    wide = torch.full((6, 90), 99, dtype=torch.int8)
    scale, azp = torch.empty(6, 1), torch.empty(6, 1, dtype=torch.int32)
    ops.dynamic_scaled_int8_quant(wide[:, 5:72], x, scale, azp)
    dense = torch.empty(6, 67, dtype=torch.int8)
    ops.dynamic_scaled_int8_quant(dense, x.contiguous(), scale.clone(), azp.clone())
    assert torch.equal(wide[:, 5:72], dense)
    assert bool((wide[:, :5] == 99).all())
    assert bool((wide[:, 72:] == 99).all())
    ops.static_scaled_int8_quant(wide[:, 5:72], x, torch.tensor(0.1), None)
    assert torch.equal(wide[:, 5:72], quantized(x, torch.tensor(0.1), 0))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_matches_reference(tier: str, dtype: torch.dtype, asymmetric: bool) -> None:
    x = torch.randn(5, 3, 200).to(dtype)
    x[1] = 2.0
    x[2] = 0.0
    outputs = []
    for module in (ops, reference):
        result = torch.empty(x.shape, dtype=torch.int8)
        scale = torch.empty(5, 3, 1)
        azp = torch.empty(5, 3, 1, dtype=torch.int32) if asymmetric else None
        module.dynamic_scaled_int8_quant(result, x, scale, azp)
        static = torch.empty(x.shape, dtype=torch.int8)
        one = None if azp is None else azp[0, 0]
        module.static_scaled_int8_quant(static, x, scale[0, 0], one)
        outputs.append([result, scale, azp, static])
    for ours, theirs in zip(*outputs, strict=True):
        assert ours is theirs or torch.equal(ours, theirs)


@pytest.mark.parametrize("op", ["static_scaled_int8_quant", "dynamic_scaled_int8_quant"])
def test_bad_input(op: str, subtests: pytest.Subtests) -> None:
    count = 1 if op.startswith("static") else 4
    x = torch.randn(4, 8)
    good = {
        "result": torch.empty(4, 8, dtype=torch.int8),
        "input": x,
        "scale": torch.ones(count, 1),
        "azp": torch.zeros(count, 1, dtype=torch.int32),
    }
    cases = [
        ({"input": x.double()}, "input is float64, want float32 or bfloat16 or float16"),
        ({"input": torch.tensor(1.0)}, r"input has shape \[\], want at least 1 dimensions"),
        ({"input": torch.randn(8, 4).T}, "input has stride 4 in its last dimension, want 1"),
        ({"result": x.clone()}, "result is float32, want int8"),
        ({"result": good["result"][:3]}, r"result has shape \[3, 8\], want \[4, 8\] as input"),
        ({"result": torch.empty(8, 4, dtype=torch.int8).T}, "result has stride 4 in its last"),
        ({"scale": torch.ones(count, 1).double()}, "scale is float64, want float32"),
        ({"scale": torch.ones(count + 1)}, rf"scale has shape .* want {count} elements"),
        ({"azp": torch.zeros(count)}, "azp is float32, want int32"),
        ({"azp": torch.zeros(count + 1, dtype=torch.int32)}, f"azp has shape .* want {count} elem"),
    ]
    if count > 1:
        cases.append(({"scale": torch.ones(8)[::2]}, "scale is not contiguous"))
    for change, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=f"{op}: .*{message}"):
            getattr(ops, op)(*{**good, **change}.values())
