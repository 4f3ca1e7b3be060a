"""rms_norm and fused_add_rms_norm against float64 PyTorch, per tier."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference import norm as reference

from ..common.norm import exact

ops = torch.ops.vllm_kernels

# Two roundings: of the quotient and of its product with the weight.
RTOL = {torch.float32: 2e-6, torch.bfloat16: 2**-7 * 1.01, torch.float16: 2**-10 * 1.01}
# Half the smallest subnormal of each dtype, times the weight.
ATOL = {torch.float32: 1e-44, torch.bfloat16: 1e-40, torch.float16: 2.0**-22}
SHAPES = [(1, 1), (1, 4096), (7, 33), (3, 5, 127), (0, 64), (2, 8191), (300, 128), (4, 0)]


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = RTOL[actual.dtype], ATOL[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "bare"])
def test_rms_norm(tier: str, dtype: torch.dtype, shape: tuple[int, ...], weighted: bool) -> None:
    x = torch.randn(shape, dtype=dtype)
    weight = torch.randn(shape[-1], dtype=dtype) if weighted else None
    result = torch.full_like(x, float("nan"))
    ops.rms_norm(result, x, weight, 1e-6)
    check(result, exact(x, weight, 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [True, False], ids=["weight", "bare"])
def test_fused_add(tier: str, dtype: torch.dtype, shape: tuple[int, ...], weighted: bool) -> None:
    x, residual = torch.randn(2, *shape).to(dtype)
    weight = torch.randn(shape[-1], dtype=dtype) if weighted else None
    total = x.double() + residual.double()
    rounded = (x.float() + residual.float()).to(dtype)
    ops.fused_add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(residual, rounded)
    if dtype == torch.float32:
        total = rounded  # the sum that cancels has lost bits before the norm
    check(x, exact(total, weight, 1e-5))


def test_strided(tier: str, dtype: torch.dtype) -> None:
    """Heads cut out of a fused projection, rows with gaps, a broadcast row; the rest stays."""
    qkv = torch.randn(5, 12 * 64).to(dtype)
    before = qkv.clone()
    heads = qkv[:, 2 * 64 : 6 * 64].view(5, 4, 64)
    weight = torch.randn(64, dtype=dtype)
    want = exact(heads, weight, 1e-6)
    ops.rms_norm(heads, heads, weight, 1e-6)  # in place
    check(heads, want)
    assert torch.equal(qkv[:, : 2 * 64], before[:, : 2 * 64])
    assert torch.equal(qkv[:, 6 * 64 :], before[:, 6 * 64 :])

    row = torch.randn(1, 64).to(dtype).expand(3, 64)
    result = torch.zeros(3, 2, 64, dtype=dtype)
    ops.rms_norm(result[:, 1], row, None, 1e-6)
    check(result[:, 1], exact(row, None, 1e-6))
    assert not result[:, 0].any()

    x = torch.randn(4, 3, 100).to(dtype).transpose(0, 1)[..., :70]
    residual = torch.randn(3, 4, 80).to(dtype)[..., 5:75]
    other_x, other_residual = x.contiguous(), residual.contiguous()
    ops.fused_add_rms_norm(x, residual, None, 1e-6)
    ops.fused_add_rms_norm(other_x, other_residual, None, 1e-6)
    assert torch.equal(x, other_x)
    assert torch.equal(residual, other_residual)


def test_extreme_values(tier: str, dtype: torch.dtype) -> None:
    """Zeros, subnormals, the largest values, NaN and infinity, each in a row of its own."""
    info = torch.finfo(dtype)
    width = 70
    rows = torch.zeros(6, width, dtype=dtype)
    rows[1] = info.tiny / 4
    rows[2] = 3e4 if dtype == torch.float16 else 1e18  # squares within float32
    rows[3, 5] = float("nan")
    rows[4, 69] = float("inf")
    rows[5, ::2] = -0.0
    result = torch.full_like(rows, 7.0)
    ops.rms_norm(result, rows, None, 1e-6)
    finite = [0, 1, 2, 5]
    check(result[finite], exact(rows[finite], None, 1e-6))
    assert bool(result[3].isnan().all())
    assert bool(result[4, 69].isnan())  # inf * 0
    assert not result[4, :69].any()
    assert torch.equal(result[5].signbit(), rows[5].signbit())
    # Where the sum of squares passes float32, the engine's own formula gives 0, and so does this.
    if dtype != torch.float16:
        huge = torch.full((1, width), info.max, dtype=dtype)
        ops.rms_norm(huge, huge, None, 1e-6)
        assert not huge.any()


def test_matches_reference(tier: str, dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 3, 5, 200).to(dtype)
    weight = torch.randn(200, dtype=dtype)
    outputs = []
    for module in (ops, reference):
        result, added, total = torch.empty_like(x), x.clone(), residual.clone()
        module.rms_norm(result, x, weight, 1e-6)
        module.fused_add_rms_norm(added, total, weight, 1e-6)
        outputs.append((result, added, total))
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs)
    # Only the order of the additions differs, so a rounding may turn here and there.
    if dtype != torch.float32:
        assert (outputs[0][0] != outputs[1][0]).float().mean() < 0.01


def test_rms_norm_bad_input(subtests: pytest.Subtests) -> None:
    x = torch.randn(2, 8)
    weight = torch.ones(8)
    cases = [
        ((x, x.double(), None), "input is float64, want float32 or bfloat16 or float16"),
        ((x.half(), x, None), "result is float16, want float32 as input"),
        ((x, torch.tensor(1.0), None), r"input has shape \[\], want at least 1 dimensions"),
        ((torch.empty(1, 8), x, None), r"result has shape \[1, 8\], want \[2, 8\] as input"),
        ((x, torch.randn(8, 2).T, None), "input has stride 2 in its last dimension, want 1"),
        ((torch.empty(8, 2).T, x, None), "result has stride 2 in its last dimension, want 1"),
        ((x, x, weight.half()), "weight is float16, want float32 as input"),
        ((x, x, weight[:7]), r"weight has shape \[7\], want 8 in dimension 0"),
        ((x, x, weight[None]), r"weight has shape \[1, 8\], want 1 dimensions"),
        ((x, x, torch.ones(16)[::2]), "weight is not contiguous"),
    ]
    for arguments, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match="^rms_norm: " + message):
            ops.rms_norm(*arguments, 1e-6)


def test_fused_add_bad_input(subtests: pytest.Subtests) -> None:
    x, residual = torch.randn(2, 8), torch.randn(2, 8)
    weight = torch.ones(8)
    cases = [
        ((x.int(), residual, None), "input is int32, want float32 or bfloat16 or float16"),
        ((x, residual.bfloat16(), None), "residual is bfloat16, want float32 as input"),
        ((x, residual[:1], None), r"residual has shape \[1, 8\], want \[2, 8\] as input"),
        ((x, torch.randn(8, 2).T, None), "residual has stride 2 in its last dimension, want 1"),
        ((torch.randn(8, 2).T, residual, None), "input has stride 2 in its last dimension"),
        ((x, residual, weight[:7]), r"weight has shape \[7\], want 8 in dimension 0"),
    ]
    before = x.clone(), residual.clone()
    for arguments, message in cases:
        with (
            subtests.test(message),
            pytest.raises(RuntimeError, match="^fused_add_rms_norm: " + message),
        ):
            ops.fused_add_rms_norm(*arguments, 1e-6)
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])
