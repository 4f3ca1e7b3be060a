"""Products of activations rounded to int8 with 4-bit weights against float64 PyTorch, per tier."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from ..common.sampled import with_dtypes
from ..common.wna16 import INTERLEAVE, pack, permute

ops = torch.ops.vllm_kernels
AWQ, GPTQ = 0, 1

# Unit roundoffs: of the result.
EPS = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def words(values: torch.Tensor, method: int) -> torch.Tensor:
    """[..., 8 W] values from 0 to 15 as int32 [..., W]."""
    return pack(permute(values, INTERLEAVE) if method == AWQ else values, 4, -1)


@dataclass
class Weights:
    """Values and zero points as a checkpoint has them, [..., K, N] and [..., G, N]."""

    values: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    method: int = AWQ

    def stored(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Arguments of the conversion."""
        if self.method == AWQ:
            weight = words(self.values, AWQ)
        else:
            weight = words(self.values.transpose(-1, -2), GPTQ).transpose(-1, -2)
        return weight, words(self.zeros, self.method), self.scales, self.method

    def packed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        one, two, three = ops.convert_weight_packed_scale_zp(*self.stored())
        return one, two, three

    def integers(self) -> torch.Tensor:
        zeros = self.zeros.long() + (self.method == GPTQ)
        return self.values.long() - self.wide(zeros)

    def wide(self, groups: torch.Tensor) -> torch.Tensor:
        size = self.values.shape[-2] // max(1, groups.shape[-2])
        return groups.repeat_interleave(size, -2)

    def exact(self) -> torch.Tensor:
        return self.integers().double() * self.wide(self.scales.double())


def weights(
    k: int, n: int, group: int, method: int = AWQ, experts: tuple[int, ...] = ()
) -> Weights:
    size = (*experts, k // group, n)
    return Weights(
        torch.randint(0, 16, (*experts, k, n)),
        torch.randint(0, 16, size),
        torch.rand(size) / 16 + 0.001,
        method,
    )


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The integers and scales of rows, in float32 as the contract has it."""
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    inverse = 1 / scale.clamp(min=torch.finfo(torch.float32).tiny)
    return (x.float() * inverse).round(), scale


def check(
    got: torch.Tensor, x: torch.Tensor, weight: Weights, bias: torch.Tensor | None = None
) -> None:
    integers, scale = rounded(x)
    values, dense = integers.double() * scale.double(), weight.exact()
    exact = values @ dense
    # Of sums of a group only one float32 is made, of numbers as large as their parts.
    size = values.abs() @ (
        (weight.values.double() + weight.wide(weight.zeros.double() + 1))
        * weight.wide(weight.scales.double().abs())
    )
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    sums = (weight.scales.shape[0] + 5) * 2.0**-24 * size
    bound = sums + 1.01 * EPS[got.dtype] * (exact.abs() + sums) + torch.finfo(got.dtype).tiny
    wrong = ~((got.double() - exact).abs() <= bound)
    assert not wrong.any(), (got[wrong][:5], exact[wrong][:5], wrong.nonzero()[:5])


# Whole panels and half of one, groups that no tile, word row or part of K divides, one group.
SHAPES = [
    (1, 128, 64, 128),
    (1, 4096, 96, 128),
    (2, 40, 32, 8),
    (3, 96, 160, 32),
    (5, 1056, 96, 1056),
    (6, 384, 64, 192),
    (7, 320, 128, 64),
    (9, 72, 32, 24),
    (17, 512, 224, 128),
    (33, 2304, 96, 768),
    (40, 1536, 64, 512),
    (300, 192, 160, 64),
    (512, 64, 32, 32),
]


@with_dtypes("shape", SHAPES)
@pytest.mark.parametrize("method", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_product(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int], method: int
) -> None:
    m, k, n, group = shape
    weight, x = weights(k, n, group, method), torch.randn(m, k).to(dtype)
    bias = torch.randn(n) if method == AWQ else torch.randn(n).to(dtype)
    got = ops.int4_scaled_mm_cpu(x, *weight.packed(), bias)
    assert got.dtype == dtype
    check(got, x, weight, bias)


@with_dtypes("m", [*range(1, 26), 31, 32, 33, 48, 64, 65, 257])
def test_rows(tier: str, dtype: torch.dtype, m: int) -> None:
    weight, x = weights(192, 96, 64), torch.randn(m, 192).to(dtype)
    check(ops.int4_scaled_mm_cpu(x, *weight.packed(), None), x, weight)


@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize("method", [AWQ, GPTQ], ids=["awq", "gptq"])
@pytest.mark.parametrize("value", [0, 15])
@pytest.mark.parametrize("zero", [0, 15])
def test_extremes(tier: str, m: int, method: int, value: int, zero: int) -> None:
    """Every product as large as it can be: nothing saturates, and the sums are exact."""
    k, n = 512, 96
    weight = weights(k, n, 128, method)
    weight.values.fill_(value)
    weight.zeros.fill_(zero)
    weight.scales.fill_(0.5)
    signs = torch.ones(m, 1)
    signs[1::2] = -1
    got = ops.int4_scaled_mm_cpu(signs.expand(m, k) * 127, *weight.packed(), None)
    factor = value - zero - (method == GPTQ)
    assert torch.equal(got, (signs * 127 * 0.5 * factor * k).expand(m, n))


@pytest.mark.parametrize("m", [1, 6, 30])
def test_alternating_signs(tier: str, m: int) -> None:
    """Neighbours that cancel, next to ones that do not, at the extremes of int8."""
    weight = weights(256, 64, 256)
    weight.values.copy_(torch.tensor([15, 15, 0, 15]).repeat(64)[:, None].expand(256, 64))
    weight.zeros.fill_(0)
    weight.scales.fill_(1.0)
    row = torch.tensor([127.0, 127.0, -127.0, 127.0]).repeat(64)
    got = ops.int4_scaled_mm_cpu(row.expand(m, 256).contiguous(), *weight.packed(), None)
    assert torch.equal(got, torch.full((m, 64), 64 * 3 * 127.0 * 15))


@pytest.mark.parametrize("m", [1, 7])
def test_deepest(tier: str, m: int) -> None:
    """One group of the greatest depth: its sum is near the end of int32."""
    k = 1 << 20
    weight = words(torch.full((k, 32), 15), AWQ)
    zeros, scales = words(torch.zeros(1, 32), AWQ), torch.full((1, 32), 2.0**-20)
    packed = ops.convert_weight_packed_scale_zp(weight, zeros, scales, AWQ)
    got = ops.int4_scaled_mm_cpu(torch.full((m, k), -127.0), *packed, None)
    assert torch.equal(got, torch.full((m, 32), -127.0 * 15))


def test_strides(tier: str, dtype: torch.dtype) -> None:
    """Rows with gaps, and checkpoints' tensors that are views."""
    weight = weights(96, 64, 32, GPTQ)
    wide = torch.randn(5, 110).to(dtype)
    x = wide[:, 7:103]
    stored, zeros, scales, method = weight.stored()
    got = ops.int4_scaled_mm_cpu(
        x,
        *ops.convert_weight_packed_scale_zp(
            stored.t().contiguous().t(),
            zeros.repeat_interleave(2, 1)[:, ::2],
            scales.t().contiguous().t(),
            method,
        ),
        None,
    )
    check(got, x, weight)
    assert torch.equal(got, ops.int4_scaled_mm_cpu(x.contiguous(), *weight.packed(), None))


@pytest.mark.parametrize("of_scales", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_scales_of_a_checkpoint(tier: str, of_scales: torch.dtype) -> None:
    weight = weights(64, 96, 32)
    weight.scales = weight.scales.to(of_scales)
    x = torch.randn(3, 64)
    check(ops.int4_scaled_mm_cpu(x, *weight.packed(), None), x, weight)


def test_rows_of_zeros_and_of_tiny_numbers(tier: str, dtype: torch.dtype) -> None:
    weight, bias = weights(64, 32, 32), torch.randn(32)
    x = torch.zeros(3, 64).to(dtype)
    x[1, 5] = torch.finfo(dtype).smallest_normal / 4  # subnormal
    x[2, 5] = torch.finfo(dtype).max
    got = ops.int4_scaled_mm_cpu(x, *weight.packed(), bias)
    assert torch.equal(got[0], bias.to(dtype))
    check(got[1:2], x[1:2], weight, bias)
    product = weight.exact()[5] * float(x[2, 5]) + bias.double()
    fits = product.abs() < torch.finfo(dtype).max * 0.99
    assert torch.equal(got[2].isfinite(), fits) or (got[2][fits].isfinite()).all()


def test_empty(tier: str, dtype: torch.dtype) -> None:
    weight, bias = weights(64, 32, 32), torch.randn(32)
    none = torch.empty(0, 64).to(dtype)
    assert ops.int4_scaled_mm_cpu(none, *weight.packed(), bias).shape == (0, 32)
    packed = ops.convert_weight_packed_scale_zp(
        torch.empty(0, 4, dtype=torch.int32),
        torch.empty(0, 4, dtype=torch.int32),
        torch.empty(0, 32),
        AWQ,
    )
    no_depth = torch.empty(2, 0).to(dtype)
    assert torch.equal(
        ops.int4_scaled_mm_cpu(no_depth, *packed, bias), bias.to(dtype).expand(2, 32)
    )


@pytest.mark.parametrize("method", [AWQ, GPTQ], ids=["awq", "gptq"])
def test_experts_are_converted_one_by_one(tier: str, method: int) -> None:
    together = weights(96, 160, 32, method, experts=(3,))
    packed = together.packed()
    assert [list(x.shape) for x in packed] == [[3, 5, 12, 128], [3, 5, 3, 32], [3, 5, 3, 32]]
    assert [x.dtype for x in packed] == [torch.uint8, torch.int8, torch.float32]
    for e in range(3):
        one = Weights(together.values[e], together.zeros[e], together.scales[e], method)
        for whole, part in zip(packed, one.packed(), strict=True):
            assert torch.equal(whole[e], part)


def test_same_bits_on_any_number_of_threads(tier: str, dtype: torch.dtype) -> None:
    weight, x = weights(256, 320, 64), torch.randn(70, 256).to(dtype)
    packed, threads = weight.packed(), torch.get_num_threads()
    wanted = ops.int4_scaled_mm_cpu(x, *packed, None)
    try:
        torch.set_num_threads(3)
        assert torch.equal(ops.int4_scaled_mm_cpu(x, *packed, None), wanted)
    finally:
        torch.set_num_threads(threads)


def test_conversion_refusals() -> None:
    weight, zeros, scales, _ = weights(64, 64, 32).stored()
    call = ops.convert_weight_packed_scale_zp
    good: dict[str, object] = {"weight": weight, "qzeros": zeros, "scales": scales, "method": AWQ}
    call(*good.values())
    for change, sentence in (
        ({"method": 2}, "quant_method_4bit is 2, want 0 (AWQ) or 1 (GPTQ)"),
        ({"weight": weight.long()}, "weight is int64"),
        ({"weight": weight[0]}, "weight has shape [8]"),
        ({"weight": weight[:, :3]}, "weight has shape [64, 3], want N a multiple of 32"),
        ({"qzeros": zeros[:1]}, "qzeros has shape [1, 8]"),
        ({"qzeros": zeros[None]}, "qzeros has shape [1, 2, 8]"),
        ({"scales": scales.double()}, "scales is float64"),
        ({"scales": scales[:, :32]}, "scales has shape [2, 32]"),
        (
            {"scales": scales.repeat(8, 1), "qzeros": zeros.repeat(8, 1)},
            "scales has 16 groups for 64 values of K, want groups of a multiple of 8",
        ),
        ({"scales": scales[:0], "qzeros": zeros[:0]}, "scales has 0 groups for 64 values of K"),
        (
            {"weight": weight[:1].expand(1 << 21, 8)},
            "K is 2097152, want at most 1048576",
        ),
    ):
        with pytest.raises(RuntimeError) as caught:
            call(*(good | change).values())
        assert str(caught.value).startswith("convert_weight_packed_scale_zp: ")
        assert sentence in str(caught.value)


def test_product_refusals() -> None:
    packed = weights(64, 64, 32).packed()
    good: dict[str, object] = {
        "x": torch.ones(2, 64),
        **dict(zip(("w", "w_zeros", "w_scales"), packed, strict=True)),
        "bias": None,
    }
    ops.int4_scaled_mm_cpu(*good.values())
    for change, sentence in (
        ({"x": torch.ones(2, 72)}, "x has shape [2, 72], want 64 in dimension 1"),
        ({"x": torch.ones(64)}, "x has shape [64], want 2 dimensions"),
        ({"x": torch.ones(2, 64).double()}, "x is float64"),
        ({"x": torch.ones(64, 2).t()}, "x"),
        ({"w": packed[0].int()}, "w is int32"),
        ({"w": packed[0][:1]}, "w_scales has shape [2, 2, 32]"),
        ({"w": packed[0][..., :64]}, "w has shape [2, 8, 64]"),
        ({"w": packed[0][0]}, "w has shape [8, 128], want 3 dimensions"),
        ({"w_zeros": packed[1].byte()}, "w_zeros is uint8"),
        ({"w_zeros": packed[1][:, :1]}, "w_zeros has shape [2, 1, 32]"),
        ({"w_scales": packed[2].bfloat16()}, "w_scales is bfloat16"),
        (
            {"w_scales": packed[2].repeat(1, 8, 1), "w_zeros": packed[1].repeat(1, 8, 1)},
            "w_scales has 16 groups for 64 values of K",
        ),
        ({"bias": torch.ones(63)}, "bias has shape [63]"),
        ({"bias": torch.ones(64).bfloat16()}, "bias is bfloat16"),
    ):
        with pytest.raises(RuntimeError) as caught:
            ops.int4_scaled_mm_cpu(*(good | change).values())
        assert str(caught.value).startswith("int4_scaled_mm_cpu: ")
        assert sentence in str(caught.value), (sentence, str(caught.value))


def test_compiled(dtype: torch.dtype) -> None:
    weight, x = weights(64, 64, 64), torch.randn(4, 64).to(dtype)
    packed = weight.packed()

    def call(x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = ops.int4_scaled_mm_cpu(x, *packed, None)
        return product + 1

    assert torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(x), call(x))
