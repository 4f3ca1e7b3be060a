"""Products with packed weights against float64 PyTorch, per tier."""

from __future__ import annotations

import pytest
import torch

from ..common.sampled import with_dtypes

ops = torch.ops.vllm_kernels
E4M3 = torch.float8_e4m3fn

# Unit roundoffs: of the result, and of sums in float32.
EPS = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def check(
    got: torch.Tensor, a: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> None:
    """``got`` is a @ weight.T + bias but for sums in float32 and one rounding."""
    exact = a.double() @ weight.double().t()
    size = a.double().abs() @ weight.double().abs().t()
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    sums = (a.shape[1] + 4) * 2.0**-24 * size
    bound = sums + 1.01 * EPS[got.dtype] * (exact.abs() + sums) + torch.finfo(got.dtype).tiny
    wrong = ~((got.double() - exact).abs() <= bound)
    assert not wrong.any(), (got[wrong][:5], exact[wrong][:5], wrong.nonzero()[:5])


def expanded(scales: torch.Tensor, block: tuple[int, int], shape: torch.Size) -> torch.Tensor:
    rows = scales.double().repeat_interleave(block[0], 0)[: shape[0]]
    return rows.repeat_interleave(block[1], 1)[:, : shape[1]]


def fp8_case(
    m: int, k: int, n: int, block: tuple[int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weight = (torch.randn(n, k) * 20).to(E4M3)
    scales = torch.rand(-(-n // block[0]), -(-k // block[1])) * 0.1 + 0.001
    return torch.randn(m, k).to(dtype), weight, scales


# Whole panels and narrower ones, K that no word or step divides, blocks across panels.
SHAPES = [
    (1, 128, 64, (128, 128)),
    (1, 256, 96, (32, 128)),
    (3, 130, 80, (16, 64)),
    (5, 33, 7, (1, 32)),
    (9, 1, 65, (128, 128)),
    (17, 384, 200, (48, 128)),
    (40, 2080, 70, (64, 32)),
    (300, 161, 130, (130, 161)),
]


@with_dtypes("shape", SHAPES)
def test_fp8(tier: str, dtype: torch.dtype, shape: tuple[int, int, int, tuple[int, int]]) -> None:
    m, k, n, block = shape
    a, weight, scales = fp8_case(m, k, n, block, dtype)
    bias = torch.randn(n)
    want = weight.double() * expanded(scales, block, weight.shape)
    packed = ops.convert_weight_packed(weight)
    got = ops.fp8_scaled_mm_cpu(a, packed, scales, list(block), bias, dtype, True)
    check(got, a, want, bias)
    plain = ops.fp8_scaled_mm_cpu(a, weight, scales, list(block), bias, dtype, False)
    assert torch.equal(plain, got)


@with_dtypes("m", [*range(1, 20), 31, 32, 33, 64, 257])
def test_fp8_rows(tier: str, dtype: torch.dtype, m: int) -> None:
    a, weight, scales = fp8_case(m, 320, 96, (32, 64), dtype)
    packed = ops.convert_weight_packed(weight)
    got = ops.fp8_scaled_mm_cpu(a, packed, scales, [32, 64], None, dtype, True)
    check(got, a, weight.double() * expanded(scales, (32, 64), weight.shape))


def times_every_code(a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`a` times every code at every place of a word; the weights; which rows of them are finite."""
    codes = torch.arange(256, dtype=torch.uint8)
    weight = torch.stack([codes.roll(shift) for shift in range(a.shape[1])], 1)
    weight = weight.contiguous().view(E4M3)
    got = ops.fp8_scaled_mm_cpu(a, weight, torch.ones(1, 1), [256, 32], None, torch.float32, False)
    return got, weight.float(), ~weight.float().isnan().any(1)


def test_fp8_every_value(tier: str, dtype: torch.dtype) -> None:
    """All 256 codes, at every place of a word, times one: exact; NaN stays NaN."""
    got, weight, finite = times_every_code(torch.eye(5).to(dtype))
    assert torch.equal(got[:, finite], weight.t()[:, finite])
    # A product with NaN anywhere in its sum is NaN.
    assert got[:, ~finite].isnan().all()


def test_fp8_every_value_in_one_row(tier: str, dtype: torch.dtype) -> None:
    """The same where one row is multiplied, whose weights never lie decoded in memory."""
    for place, row in enumerate(torch.eye(8).to(dtype)):
        got, weight, finite = times_every_code(row[None])
        assert torch.equal(got[0, finite], weight[finite, place])
        assert got[0, ~finite].isnan().all()


@with_dtypes("depth", [4, 96, 128, 130, 2048])
def test_one_row_has_the_bits_of_many(tier: str, dtype: torch.dtype, depth: int) -> None:
    a, weight, scales = fp8_case(7, depth, 160, (32, 64), dtype)
    ints = torch.randint(-128, 128, (160, depth), dtype=torch.int8)
    packed, packed_ints = ops.convert_weight_packed(weight), ops.convert_weight_packed(ints)

    def fp8(rows: torch.Tensor) -> torch.Tensor:
        return ops.fp8_scaled_mm_cpu(rows, packed, scales, [32, 64], None, torch.float32, True)

    factors = torch.full((160, 1), 0.01)

    def int8(rows: torch.Tensor) -> torch.Tensor:
        return ops.int8_scaled_mm_with_quant(rows, packed_ints, factors, None, torch.float32, True)

    row = a[2:3]
    check(fp8(row), row, weight.double() * expanded(scales, (32, 64), weight.shape))
    check(int8(row), row, ints.double() * factors.double())
    tiles = tier == "amx" and dtype == torch.bfloat16  # which add in another order
    assert tiles or torch.equal(fp8(row), fp8(a)[2:3])
    # Many rows take longer K in parts, each scaled for itself.
    assert tiles or depth > 128 or torch.equal(int8(row), int8(a)[2:3])


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fp8_result(tier: str, dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    """A result of another dtype, and a bias of the activations'."""
    a, weight, scales = fp8_case(4, 96, 72, (72, 96), dtype)
    bias = torch.randn(72).to(dtype)
    got = ops.fp8_scaled_mm_cpu(a, weight, scales, [72, 96], bias, out_dtype, False)
    assert got.dtype == out_dtype
    check(got, a, weight.double() * expanded(scales, (72, 96), weight.shape), bias)


def test_fp8_one_scale(tier: str, dtype: torch.dtype) -> None:
    """Equal scales of all blocks along K, as the engine makes of a tensor's single one."""
    a, weight, _ = fp8_case(6, 640, 96, (96, 128), dtype)
    scales = torch.tensor(0.03).reshape(()).expand(1, 5).contiguous()
    got = ops.fp8_scaled_mm_cpu(a, weight, scales, [96, 128], None, dtype, False)
    check(got, a, weight.double() * float(scales[0, 0]))


def test_fp8_extremes(tier: str, dtype: torch.dtype) -> None:
    """The largest weights times scales from 2^-126 to 2^110; infinite scales give infinities."""
    a = torch.ones(2, 64).to(dtype)
    weight = torch.full((3, 64), 448.0).to(E4M3)
    scales = torch.tensor([[2.0**-126], [2.0**110], [float("inf")]])
    got = ops.fp8_scaled_mm_cpu(a, weight, scales, [1, 64], None, torch.float32, False)
    assert torch.equal(got, (448.0 * 64 * scales.t()).expand(2, 3))


@with_dtypes("shape", [(1, 64, 64), (3, 37, 80), (7, 130, 5), (40, 2049, 64)])
def test_int8(tier: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a = torch.randn(m, k).to(dtype)
    weight = torch.randint(-128, 128, (n, k), dtype=torch.int8)
    weight.view(-1)[:2] = torch.tensor([-128, 127], dtype=torch.int8)
    scales, bias = torch.rand(n, 1) / 100 + 0.001, torch.randn(n)
    packed = ops.convert_weight_packed(weight)
    got = ops.int8_scaled_mm_with_quant(a, packed, scales, bias, dtype, True)
    check(got, a, weight.double() * scales.double(), bias)


@with_dtypes("shape", [(1, 64, 64), (3, 37, 80), (7, 130, 5), (300, 513, 96)])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_linear(tier: str, dtype: torch.dtype, shape: tuple[int, int, int], packed: bool) -> None:
    m, k, n = shape
    wide = torch.randn(m, k + 9).to(dtype)
    a, weight, bias = wide[:, 4 : 4 + k], torch.randn(n, k).to(dtype), torch.randn(n).to(dtype)
    out = torch.full((m, n + 3), float("nan"), dtype=dtype)
    mat2 = ops.convert_weight_packed(weight) if packed else weight.t().contiguous().t()
    ops.weight_packed_linear(out[:, :n], a, mat2, bias, packed)
    check(out[:, :n], a, weight, bias)
    assert out[:, n:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bfloat16, E4M3], ids=str)
def test_packing_keeps_every_value(dtype: torch.dtype) -> None:
    """Of experts with strides: the same bytes in another order, expert by expert."""
    weight = torch.randint(0, 100, (3, 37, 70)).to(dtype).transpose(1, 2)
    packed = ops.convert_weight_packed(weight)
    assert packed.shape == weight.shape
    assert packed.dtype == dtype
    assert packed.is_contiguous()
    for one, other in zip(weight, packed, strict=True):
        assert torch.equal(one.reshape(-1).float().sort()[0], other.reshape(-1).float().sort()[0])
        assert torch.equal(
            ops.convert_weight_packed(one).view(torch.uint8), other.view(torch.uint8)
        )


def test_empty(tier: str, dtype: torch.dtype) -> None:
    scales = torch.ones(1, 1)
    none = torch.empty(0, 32).to(dtype)
    weight = torch.ones(64, 32).to(E4M3)
    call = ops.fp8_scaled_mm_cpu
    assert call(none, weight, scales, [64, 32], None, dtype, False).shape == (0, 64)
    no_depth = torch.empty(2, 0).to(dtype)
    bias = torch.arange(64.0)
    got = call(no_depth, weight[:, :0].contiguous(), torch.ones(1, 0), [64, 32], bias, dtype, True)
    assert torch.equal(got, bias.to(dtype).expand(2, 64))


GOOD: dict[str, object] = {
    "mat1": torch.ones(2, 64),
    "mat2": torch.ones(32, 64).to(E4M3),
    "scales2": torch.ones(1, 2),
    "block_size": [32, 32],
    "bias": None,
    "out_dtype": torch.float32,
    "is_vnni": True,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mat1": torch.ones(2, 63)}, "mat2 has shape [32, 64], want 63 in dimension 1"),
        ({"mat1": torch.ones(2, 64).double()}, "mat1 is float64"),
        ({"mat2": torch.ones(32, 64)}, "mat2 is float32"),
        ({"mat2": torch.ones(64, 32).to(E4M3).t()}, "mat2"),
        ({"scales2": torch.ones(2, 2)}, "scales2 has shape [2, 2]"),
        ({"scales2": torch.ones(1, 2).bfloat16()}, "scales2 is bfloat16"),
        ({"block_size": [32]}, "block_size has 1 elements, want 2"),
        ({"block_size": [0, 32]}, "block_size is [0, 32], want sizes above 0"),
        ({"block_size": [32, -(2**63)]}, "want sizes above 0"),
        ({"block_size": [32, 48]}, "want a multiple of 32 in K, or all of it"),
        ({"bias": torch.ones(32).bfloat16()}, "bias is bfloat16"),
        ({"bias": torch.ones(31)}, "bias has shape [31]"),
        ({"out_dtype": torch.int8}, "out_dtype is another dtype"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals(change: dict[str, object], sentence: str) -> None:
    ops.fp8_scaled_mm_cpu(*GOOD.values())
    with pytest.raises(RuntimeError) as caught:
        ops.fp8_scaled_mm_cpu(*(GOOD | change).values())
    assert str(caught.value).startswith("fp8_scaled_mm_cpu: ")
    assert sentence in str(caught.value)


def beyond_memory(step: int) -> dict[str, tuple[str, tuple[object, ...]]]:
    """Arguments of each op, and the name of the matrix whose rows begin ``step`` elements apart."""
    size = 1 << 23

    def matrix(dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(2 * size, dtype=dtype).as_strided((size, size), (step, 1))

    row = torch.empty(1, size, dtype=torch.bfloat16)
    rest = (None, torch.bfloat16, False)
    return {
        "convert_weight_packed": ("weight", (matrix(E4M3),)),
        "convert_scale_packed": ("scale", (matrix(torch.uint8),)),
        "weight_packed_linear": (
            "mat2",
            (torch.empty_like(row), row, matrix(torch.bfloat16), None, False),
        ),
        "fp8_scaled_mm_cpu": ("mat2", (row, matrix(E4M3), torch.ones(1, 1), [size, size], *rest)),
        "int8_scaled_mm_with_quant": ("mat2", (row, matrix(torch.int8), row.float(), *rest)),
    }


@pytest.mark.parametrize(
    ("op", "step"),
    [
        ("convert_weight_packed", 1),
        ("convert_scale_packed", 1),
        ("weight_packed_linear", 1),
        ("fp8_scaled_mm_cpu", 1),
        ("int8_scaled_mm_with_quant", 1),
        # Its result is the caller's, so that an expanded matrix is no different.
        ("weight_packed_linear", 0),
    ],
)
def test_a_matrix_beyond_memory_is_refused(op: str, step: int) -> None:
    """Rows that share their memory have few bytes; their packed copy would have all of them."""
    name, arguments = beyond_memory(step)[op]
    sentence = rf"^{op}: {name} of shape \[8388608, 8388608\] needs more memory than this machine"
    with pytest.raises(RuntimeError, match=sentence):
        getattr(ops, op)(*arguments)


def test_compiled(dtype: torch.dtype) -> None:
    a, weight, scales = fp8_case(4, 64, 64, (64, 64), dtype)

    def call(a: torch.Tensor) -> torch.Tensor:
        return ops.fp8_scaled_mm_cpu(a, weight, scales, [64, 64], None, dtype, False) + 1

    assert torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(a), call(a))
