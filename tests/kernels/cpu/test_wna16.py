"""Products with 4-bit weights against float64 PyTorch, per tier."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kernels.reference.wna16 import cpu as reference

ops = torch.ops.vllm_kernels

# Unit roundoffs of the result; many rows go through weights rounded to the dtype.
EPS = {torch.float32: 2.0**-21, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def words(values: torch.Tensor) -> torch.Tensor:
    """Eight columns' 4-bit values in a word, lowest bits first."""
    parts = values.view(*values.shape[:-1], values.shape[-1] // 8, 8).long()
    packed = torch.stack([parts[..., i] << 4 * i for i in range(8)]).sum(0)
    return (packed & 0xFFFFFFFF).to(torch.uint32).view(torch.int32)


def pack(values: torch.Tensor) -> torch.Tensor:
    """[K, N] 4-bit values in the engine's layout: blocks of 16 columns, k by k."""
    depth, columns = values.shape
    blocks = columns // 16
    return words(values).view(depth, blocks, 2).transpose(0, 1).reshape(blocks, 2 * depth)


@dataclass
class Problem:
    a: torch.Tensor
    values: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    g_idx: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    # Of a row's largest activation: by how much any of them may be wrong.
    rounding: float = 0.0

    def run(self, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is None:
            shape = (self.a.shape[0], self.values.shape[1])
            out = torch.full(shape, float("nan"), dtype=self.a.dtype)
        zeros = None if self.zeros is None else words(self.zeros)
        ops.cpu_gemm_wna16(
            self.a, pack(self.values), out, self.scales, zeros, self.g_idx, self.bias, 8, "vec"
        )
        return out

    def check(self) -> None:
        depth, groups = self.values.shape[0], self.scales.shape[0]
        index = self.g_idx
        if index is None:
            index = torch.arange(depth) // max(1, depth // groups)
        zero = 8 if self.zeros is None else self.zeros[index.long()].double()
        weight = (self.values.double() - zero) * self.scales[index.long()].double()
        exact = self.a.double() @ weight
        size = self.a.double().abs() @ (15 * self.scales[index.long()].double().abs())
        if self.bias is not None:
            exact = exact + self.bias.double()
        # The sums of the fast path cancel what a zero point adds: float32 errors go by `size`.
        rounded = EPS[self.a.dtype] * (self.a.double().abs() @ weight.abs() + exact.abs())
        largest = self.a.double().abs().amax(-1, keepdim=True) if self.rounding else 0.0
        rounded = rounded + self.rounding * largest * weight.abs().sum(0)
        bound = rounded + size * 2.0**-22 + torch.finfo(self.a.dtype).tiny
        got = self.run().double()
        wrong = ~((got - exact).abs() <= bound)
        assert not wrong.any(), (got[wrong][:5], exact[wrong][:5], wrong.nonzero()[:5])


def problem(
    m: int, k: int, n: int, groups: int, dtype: torch.dtype, zeros: bool = False
) -> Problem:
    return Problem(
        a=torch.randn(m, k).to(dtype),
        values=torch.randint(0, 16, (k, n)),
        scales=(torch.rand(groups, n) * 0.1 + 0.01).to(dtype),
        zeros=torch.randint(0, 16, (groups, n)) if zeros else None,
        bias=torch.randn(n).to(dtype) if n % 64 else None,
    )


# Few rows and many; whole panels and narrower ones; depths that no step divides.
SHAPES = [
    (1, 128, 64, 1),
    (1, 256, 128, 8),
    (3, 96, 32, 3),
    (4, 64, 16, 32),
    (5, 37, 48, 37),
    (8, 66, 80, 2),
    (9, 160, 96, 5),
    (17, 99, 64, 9),
    (40, 1024, 112, 8),
    (300, 288, 160, 2),
]


@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(
    tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int], zeros: bool
) -> None:
    problem(*shape, dtype, zeros).check()


@pytest.mark.parametrize("m", [*range(1, 20), 24, 25, 31, 32, 33, 64, 257])
def test_rows(tier: str, dtype: torch.dtype, m: int) -> None:
    problem(m, 320, 64, 5, dtype, zeros=True).check()


@pytest.mark.parametrize("shape", [(1, 1040, 64, 1), (2, 1536, 80, 1), (4, 2080, 64, 2)], ids=str)
def test_groups_of_many(tier: str, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    """More values of K share a group than are summed at once."""
    problem(*shape, dtype, zeros=True).check()


@pytest.mark.parametrize("m", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_largest_values_do_not_overflow(tier: str, dtype: torch.dtype, m: int) -> None:
    """All weights and all activations are as large as they can be."""
    # All bits of the fraction are set: the largest integers.
    largest = (2 - torch.finfo(dtype).eps) * (2.0 if dtype == torch.float16 else 2.0**86)
    a = torch.full((m, 1024), largest, dtype=torch.float64)
    case = Problem(
        a=(a * torch.linspace(1, 0.99, m).double()[:, None]).to(dtype),
        values=torch.full((1024, 64), 15),
        scales=torch.full((2, 64), 2.0**-3).to(dtype),
        zeros=torch.zeros(2, 64, dtype=torch.int64),
    )
    case.check()
    case.a = -case.a
    case.check()


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("exponent", [-140, -120, -20, 10, 100])
def test_activations_of_different_sizes(
    tier: str, dtype: torch.dtype, exponent: int, m: int
) -> None:
    """A group's largest activation decides how exact its others are, on tiers with integers."""
    if dtype == torch.float16:
        exponent = max(-22, min(exponent, 4))
    case = problem(m, 256, 64, 2, dtype, zeros=True)
    case.a = (case.a.double() * 2.0**exponent).to(dtype)
    case.a[:, 7] *= 500
    case.a[:, 129:] = 0
    case.rounding = 2.0**-20 if dtype == torch.float32 else 2.0**-15
    case.check()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_stays_in_its_row(tier: str, dtype: torch.dtype, value: float) -> None:
    case = problem(2, 64, 64, 2, dtype)
    case.a[0, 5] = value
    got = case.run()
    assert not got[0].isfinite().any()
    assert got[1].isfinite().all()


@pytest.mark.parametrize("m", [1, 4, 6, 30])
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
def test_order_of_activations(tier: str, dtype: torch.dtype, m: int, zeros: bool) -> None:
    """`g_idx` in any order, as a checkpoint that was quantised with act-order has it."""
    case = problem(m, 192, 96, 6, dtype, zeros)
    case.g_idx = (torch.randperm(192) // 32).to(torch.int32)
    case.check()


@pytest.mark.parametrize("m", [1, 12])
def test_each_value(tier: str, dtype: torch.dtype, m: int) -> None:
    """Every 4-bit value in every place of a word; exact in every dtype."""
    for value in range(16):
        values = torch.zeros(32, 64, dtype=torch.int64)
        values.fill_(8)
        values.view(-1)[torch.arange(32) * 65 % 2048] = value
        case = Problem(torch.eye(32)[:m].to(dtype), values, torch.ones(1, 64).to(dtype))
        assert torch.equal(case.run(), (values[:m] - 8).to(dtype))


@pytest.mark.parametrize("m", [2, 11])
def test_strides(tier: str, dtype: torch.dtype, m: int) -> None:
    case = problem(m, 64, 96, 2, dtype, zeros=True)
    want = case.run()
    wide = torch.zeros(m, 100, dtype=dtype)
    wide[:, 20:84] = case.a
    case.a = wide[:, 20:84]
    scales = torch.zeros(2, 150, dtype=dtype)
    scales[:, 30:126] = case.scales
    case.scales = scales[:, 30:126]
    out = torch.full((m, 120), 7.0, dtype=dtype)
    assert torch.equal(case.run(out[:, 8:104]), want)
    assert (out[:, :8] == 7).all()
    assert (out[:, 104:] == 7).all()


@pytest.mark.parametrize("m", [1, 20])
def test_nan_stays_in_its_row(tier: str, dtype: torch.dtype, m: int) -> None:
    case = problem(m, 64, 64, 2, dtype)
    case.a[0, 5] = float("nan")
    got = case.run()
    assert got[0].isnan().all()
    assert got[1:].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 64, 32), (3, 0, 32), (20, 0, 32), (3, 64, 0)], ids=str)
def test_empty(tier: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    case = problem(m, k, n, 1, torch.float32)
    case.bias = torch.randn(n)
    got = case.run()
    assert got.shape == (m, n)
    if k == 0:
        assert torch.equal(got, case.bias.expand(m, n))


def test_matches_reference(tier: str, dtype: torch.dtype) -> None:
    for m in (2, 40):
        case = problem(m, 256, 96, 4, dtype, zeros=True)
        assert case.zeros is not None
        expected = torch.empty(m, 96, dtype=dtype)
        reference.cpu_gemm_wna16(
            case.a, pack(case.values), expected, case.scales, words(case.zeros), None, case.bias,
            8, "vec",
        )  # fmt: skip
        rtol = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
        torch.testing.assert_close(case.run(), expected, rtol=rtol, atol=4 * rtol)


# Bad input: one sentence that names op and argument


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input": torch.zeros(2, 8).double()}, "input is float64, want float32 or bfloat16"),
        ({"input": torch.zeros(8, 2).t()}, "input has stride 2 in its last dimension"),
        ({"output": torch.zeros(2, 32).half()}, "output is float16, want float32 as input"),
        ({"output": torch.zeros(2, 24)}, "output has 24 columns, want a multiple of 16"),
        ({"output": torch.zeros(3, 32)}, r"output has shape \[3, 32\], want 2 in dimension 0"),
        ({"q_weight": torch.zeros(2, 16)}, "q_weight is float32, want int32"),
        ({"q_weight": torch.zeros(4, 8).int()}, r"q_weight has shape \[4, 8\], want 2 in dimensi"),
        ({"scales": torch.ones(2, 32).half()}, "scales is float16, want float32 as input"),
        ({"scales": torch.ones(3, 32)}, "scales has 3 groups for 8 input columns, want groups of"),
        ({"scales": torch.ones(0, 32)}, "scales has 0 groups for 8 input columns"),
        ({"zeros": torch.zeros(2, 32).int()}, r"zeros has shape \[2, 32\], want 4 in dimension 1"),
        ({"zeros": torch.zeros(2, 4)}, "zeros is float32, want int32"),
        ({"g_idx": torch.zeros(8)}, "g_idx is float32, want int32"),
        ({"g_idx": torch.zeros(4).int()}, r"g_idx has shape \[4\], want 8 in dimension 0"),
        ({"g_idx": torch.tensor([0, 1, 2, 0, 0, 0, 0, 0]).int()}, r"g_idx\[2\] is 2, want a grou"),
        ({"bias": torch.zeros(31)}, r"bias has shape \[31\], want 32 in dimension 0"),
        ({"pack_factor": 4}, r"pack_factor is 4, want 8 \(4-bit weights\)"),
        ({"isa_hint": "rvv"}, "isa_hint is 'rvv', want amx, vec or neon"),
    ],
)
def test_bad_call(changed: dict[str, object], message: str) -> None:
    good = {
        "input": torch.zeros(2, 8),
        "q_weight": torch.zeros(2, 16, dtype=torch.int32),
        "output": torch.zeros(2, 32),
        "scales": torch.ones(2, 32),
        "zeros": None,
        "g_idx": None,
        "bias": None,
        "pack_factor": 8,
        "isa_hint": "vec",
    }
    with pytest.raises(RuntimeError, match=f"cpu_gemm_wna16: {message}"):
        ops.cpu_gemm_wna16(**{**good, **changed})
