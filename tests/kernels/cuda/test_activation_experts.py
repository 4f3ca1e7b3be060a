"""SiTU, its quantisation, activations of the rows that experts use, and the soft cap."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.cuda.test_activation import FLOAT8, GATED, RTOL, check, randn
from vllm_kernels.reference import activation as reference

ops = torch.ops.vllm_kernels

BETAS = [(1.0, -1.0), (2.5, 4.0), (0.7, 0.0)]
# The activation, and its columns in and out for each 2.
ACTIVATIONS = {
    **dict.fromkeys(("silu", "silu_with_clamp", "gelu", "gelu_tanh", "situ", "swiglustep"), 1),
    **dict.fromkeys(("swigluoai", "swigluoai_uninterleave"), 1),
    **dict.fromkeys(("silu_no_mul", "gelu_no_mul", "gelu_tanh_no_mul", "relu2_no_mul"), 2),
}


def situ(x: torch.Tensor, beta: float, linear_beta: float) -> torch.Tensor:
    gate, up = x.double().chunk(2, -1)
    if linear_beta > 0:
        up = linear_beta * torch.tanh(up / linear_beta)
    return beta * torch.tanh(gate / beta) * torch.sigmoid(gate) * up


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("shape", [(1, 1), (17, 100), (2, 3, 896), (4096, 768), (0, 64)])
def test_situ(dtype: torch.dtype, shape: tuple[int, ...], betas: tuple[float, float]) -> None:
    # Small ones too, where a difference of exponentials would cancel.
    x = randn(*shape[:-1], 2 * shape[-1], dtype=dtype)
    x[..., ::3] *= 1e-3
    out = torch.full(shape, float("nan"), dtype=dtype, device="cuda")
    ops.situ_and_mul(out, x, *betas)
    check(out, situ(x, *betas))


def test_situ_of_extremes(dtype: torch.dtype) -> None:
    values = [0.0, -0.0, 1e-4, 0.1, 0.3, 20.0, -20.0, -88.0, -1e4, 1e4, float("nan")]
    gate = torch.tensor(values * 8, dtype=dtype, device="cuda")
    out = torch.empty_like(gate)
    x = torch.cat((gate, gate))
    ops.situ_and_mul(out, x, 1.5, 2.0)
    want = situ(x, 1.5, 2.0)
    assert torch.equal(out.isnan(), want.isnan())
    torch.testing.assert_close(
        out.nan_to_num().double(), want.nan_to_num(), rtol=RTOL[dtype], atol=1e-6
    )


@pytest.mark.parametrize("valid", [0, 5, 17, 100, -3])
def test_situ_of_valid_rows(dtype: torch.dtype, valid: int) -> None:
    x = randn(17, 2 * 264, dtype=dtype)
    rows = torch.tensor([valid], dtype=torch.int32, device="cuda")
    out = torch.full((17, 264), 3.0, dtype=dtype, device="cuda")
    ops.situ_and_mul(out, x, 1.0, 2.0, rows)
    used = min(max(valid, 0), 17)
    check(out[:used], situ(x[:used], 1.0, 2.0))
    assert bool((out[used:] == 3).all())


def unmasked(activation: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """What the op without counts gives, or in float64."""
    if activation == "swiglustep":
        gate, up = x.double().chunk(2, -1)
        return (gate * torch.sigmoid(gate)).clamp(max=1.5) * up.clamp(-1.5, 1.5)
    if activation == "relu2_no_mul":
        return x.double().clamp(min=0).square()
    if activation == "silu_no_mul":
        return x.double() * torch.sigmoid(x.double())
    if activation == "gelu_no_mul":
        return GATED["gelu_and_mul"](x.double(), 1.0)
    names: dict[str, tuple[str, tuple[float, ...]]] = {
        "silu": ("silu_and_mul", ()),
        "silu_with_clamp": ("silu_and_mul_with_clamp", (1.5,)),
        "gelu": ("gelu_and_mul", ()),
        "gelu_tanh": ("gelu_tanh_and_mul", ()),
        "gelu_tanh_no_mul": ("gelu_new", ()),
        "situ": ("situ_and_mul", (2.0, 3.0)),
        "swigluoai": ("swigluoai_and_mul", (1.702, 1.5)),
        "swigluoai_uninterleave": ("silu_and_mul_with_clamp", (1.5, 1.702, 0.5)),
    }
    name, parameters = names[activation]
    getattr(ops, name)(out, x, *parameters)
    return out.double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_experts_rows(dtype: torch.dtype, activation: str) -> None:
    """As the op that has no counts, where there is one; the rest is not touched."""
    for shape, counts in (
        ((3, 7, 128), [7, 0, 2]),
        ((5, 1, 33), [1, -1, 100, 0, 1]),
        ((40, 300, 256), [(37 * i) % 301 for i in range(40)]),
        ((19, 64), [11]),
    ):
        columns = shape[-1] * 2 // ACTIVATIONS[activation]
        x = randn(*shape[:-1], columns, dtype=dtype)
        used = torch.tensor(counts, dtype=torch.int32, device="cuda")
        ours, full = torch.full((2, *shape), 3.0, dtype=dtype, device="cuda").unbind()
        ops.masked_moe_activation(ours, x, used, activation, 1.5, 1.702, 0.5, 2.0, 3.0)
        want = unmasked(activation, x, full)
        rows = torch.arange(shape[-2], device="cuda")
        spare = rows >= used[:, None] if len(shape) == 3 else rows >= used
        check(ours[~spare], want[~spare])
        assert bool((ours[spare] == 3).all())


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"gelu", "gelu_no_mul"}))
def test_the_reference_of_experts_rows(activation: str) -> None:
    x = randn(4, 9, 2 * 64 // ACTIVATIONS[activation], dtype=torch.float32)
    used = torch.tensor([9, 0, 4, 1], dtype=torch.int32, device="cuda")
    arguments = (activation, 1.5, 1.702, 0.5, 2.0, 3.0)
    ours, theirs = torch.full((2, 4, 9, 64), 3.0, device="cuda").unbind()
    ops.masked_moe_activation(ours, x, used, *arguments)
    reference.masked_moe_activation(theirs, x, used, *arguments)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_situ_of_experts(dtype: torch.dtype) -> None:
    x = randn(6, 9, 2 * 72, dtype=dtype)
    used = torch.tensor([9, 0, 4, 1, 12, -1], dtype=torch.int32, device="cuda")
    ours, theirs = torch.full((2, 6, 9, 72), 3.0, dtype=dtype, device="cuda").unbind()
    ops.masked_situ_and_mul(ours, x, used, 2.0, 1.0)
    reference.masked_situ_and_mul(theirs, x, used, 2.0, 1.0)
    check(ours, theirs.double())


@pytest.mark.parametrize("group", [0, 128])
@pytest.mark.parametrize("valid", [None, torch.int32, torch.int64])
def test_situ_quantised(dtype: torch.dtype, group: int, valid: torch.dtype | None) -> None:
    for tokens, width in ((1, 128), (6, 640), (300, 1152), (18, 4096), (9, 7168)):
        x = randn(tokens, 2 * width, dtype=dtype)
        x[0] = 0.0
        used = None if valid is None else torch.tensor([tokens // 5], dtype=valid, device="cuda")
        outputs = []
        for module in (ops, reference):
            out = torch.full((tokens, width), 3, device="cuda").to(FLOAT8)
            scale = torch.full((tokens, width // group if group else 1), 77.0, device="cuda")
            module.situ_and_mul_quant(out, scale, x, 1.5, 2.0, group, used, 3)
            outputs.append((out.float(), scale))
        (ours, our_scales), (theirs, their_scales) = outputs
        torch.testing.assert_close(our_scales, their_scales, rtol=2e-5, atol=0)
        assert bool(((ours - theirs).abs() <= theirs.abs() * 0.126 + 2.0**-8).all())
        assert float((ours != theirs).float().mean()) < 0.01
        if used is not None:
            assert bool((our_scales[tokens // 5 * 3 :] == 1).all())
            assert bool((ours[tokens // 5 * 3 :] == 3).all())


def test_situ_quantised_columns_of_any_number(dtype: torch.dtype) -> None:
    x = randn(5, 2 * 77, dtype=dtype)
    out, scale = torch.empty(5, 77, device="cuda").to(FLOAT8), torch.empty(5, 1, device="cuda")
    ops.situ_and_mul_quant(out, scale, x)
    want = situ(x, 1.0, -1.0)
    gap = (out.double() * scale.double() - want).abs()
    assert bool((gap <= want.abs() * 0.065 + scale.double() * 2.0**-9).all())


@pytest.mark.parametrize("shape", [(1, 1), (3, 257), (33, 32000)])
def test_soft_cap(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = randn(*shape, dtype=dtype) * 20
    out = torch.full(shape, float("nan"), device="cuda")
    ops.muse_spark_mul_tanh_soft_cap(out, x, 0.7, 30.0)
    check(out, 30.0 * torch.tanh(x.double() * 0.7 / 30.0))


def test_bad_input(subtests: pytest.Subtests) -> None:
    x = randn(4, 8, dtype=torch.float32)
    out, scale = torch.empty(4, 4, device="cuda"), torch.empty(4, 1, device="cuda")
    q = out.to(FLOAT8)
    one = torch.ones(1, dtype=torch.int32, device="cuda")
    cases: list[tuple[str, tuple[Any, ...], str]] = [
        ("situ_and_mul", (out, x, 0.0), "beta is 0, want more than 0"),
        ("situ_and_mul", (out, x, 1.0, 1.0, one.long()), "valid_rows is int64, want int32"),
        ("situ_and_mul_quant", (q, scale, x, 1.0, 1.0, 64), "group_size is 64, want 0 or 128"),
        ("situ_and_mul_quant", (q, scale, x, 1.0, 1.0, 128), "out has 4 columns, want a multiple"),
        ("situ_and_mul_quant", (q, out, x), r"scale has shape \[4, 4\], want \[4, 1\]"),
        ("masked_situ_and_mul", (out, x, one), r"input has shape \[4, 8\], want 3 dimensions"),
        ("masked_moe_activation", (out, x, one, "swish"), 'no kernel for the activation "swish"'),
        (
            "masked_moe_activation",
            (out, x, one.expand(2).contiguous(), "silu"),
            r"valid_token_counts has shape \[2\], want 1 elements",
        ),
        ("muse_spark_mul_tanh_soft_cap", (x.half(), x, 1.0, 1.0), "out is float16, want float32"),
    ]
    for name, arguments, message in cases:
        with subtests.test(message), pytest.raises(RuntimeError, match=f"{name}: {message}"):
            getattr(ops, name)(*arguments)
