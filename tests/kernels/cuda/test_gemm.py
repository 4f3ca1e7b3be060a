"""Products of float8 and int8 matrices with scales, against the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference.gemm import scaled as reference

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
OUTPUTS = [torch.bfloat16, torch.float16]
ROWS = [1, 3, 16, 17, 33, 64, 129, 260, 1100]
# K, N: multiples of 16, most of no tile.
SHAPES = [(16, 16), (48, 272), (256, 128), (496, 1040), (1040, 4096), (4096, 2064)]


def _kinds() -> list[torch.dtype]:
    """What this GPU is served with."""
    if not torch.cuda.is_available():
        return [FLOAT8, torch.int8]
    major, minor = torch.cuda.get_device_capability()
    found = [FLOAT8] if ops.cutlass_scaled_mm_supports_fp8(10 * major + minor) else []
    return found + ([torch.int8] if (7, 5) <= (major, minor) <= (9, 0) else [])


DTYPES = _kinds()


def _block_fp8() -> bool:
    if not torch.cuda.is_available():
        return True
    major, minor = torch.cuda.get_device_capability()
    return bool(ops.cutlass_scaled_mm_supports_block_fp8(10 * major + minor))


needs_blocks = pytest.mark.skipif(not _block_fp8(), reason="no scales for blocks on this GPU")


def matrix(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-128, 128, (rows, columns), device="cuda", dtype=torch.int8)
    return torch.randn(rows, columns, device="cuda").to(FLOAT8)


def weights(k: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    """[K, N] with contiguous columns."""
    return matrix(n, k, dtype).t()


def scales(count: int) -> torch.Tensor:
    return torch.rand(count, device="cuda") * 0.02 + 0.001


def poisoned(m: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((m, n), float("nan"), dtype=dtype, device="cuda")


def close(out: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Within rounding of the result; int8 sums are exact, Hopper's float8 sums keep 14 bits."""
    eps = torch.finfo(out.dtype).eps
    size = expected.double().abs().max().item() if expected.numel() else 1.0
    loose = eps if dtype == torch.int8 else max(eps, 6e-3)
    torch.testing.assert_close(
        out.double(), expected.double(), rtol=1.01 * eps, atol=loose * size, equal_nan=True
    )
    if expected.numel() and dtype == torch.int8:
        near = (out.double() - expected.double()).abs() <= 1.01 * eps * expected.double().abs()
        assert near.double().mean().item() > 0.999


def check(
    m: int,
    k: int,
    n: int,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
    *,
    per_row: bool = True,
    per_column: bool = True,
    with_bias: bool = False,
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> None:
    a = matrix(m, k, dtype) if a is None else a
    b = weights(k, n, dtype) if b is None else b
    arguments = (
        scales(m if per_row else 1),
        scales(n if per_column else 1),
        torch.randn(n, device="cuda").to(out_dtype) if with_bias else None,
    )
    out = poisoned(m, n, out_dtype) if out is None else out
    expected = torch.empty(m, n, dtype=torch.float32, device="cuda")
    ops.cutlass_scaled_mm(out, a, b, *arguments)
    reference.cutlass_scaled_mm(expected, a, b, *arguments)
    close(out, expected, dtype)


@pytest.mark.parametrize("k_n", SHAPES, ids=str)
@pytest.mark.parametrize("m", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_and_columns(dtype: torch.dtype, m: int, k_n: tuple[int, int]) -> None:
    for out_dtype in OUTPUTS:
        check(m, *k_n, dtype, out_dtype)
        check(m, *k_n, dtype, out_dtype, with_bias=True)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("m", [1, 20, 200, 1500])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scalars(dtype: torch.dtype, m: int, per_column: bool, per_row: bool) -> None:
    for out_dtype in OUTPUTS:
        check(m, 512, 768, dtype, out_dtype, per_row=per_row, per_column=per_column)
        check(m, 512, 768, dtype, out_dtype, per_row=per_row, per_column=per_column, with_bias=True)


@pytest.mark.parametrize("m", [16, 64, 300, 2048])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_tiles(dtype: torch.dtype, m: int) -> None:
    check(m, 1024, 14336, dtype, torch.bfloat16)


@pytest.mark.parametrize("m", [3, 50, 513])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(dtype: torch.dtype, m: int) -> None:
    a = matrix(m, 640, dtype)[:, 64:576]
    b = matrix(400, 768, dtype)[:, 32:544].t()
    wide = poisoned(m, 480, torch.bfloat16)
    check(m, 512, 400, dtype, torch.bfloat16, a=a, b=b, out=wide[:, 40:440])
    assert wide[:, :40].isnan().all()
    assert wide[:, 440:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_alone_have_any_stride(dtype: torch.dtype) -> None:
    a = matrix(7, 130, dtype)[:1, :128]
    check(1, 128, 64, dtype, torch.float16, a=a)


@pytest.mark.parametrize("m", [5, 100, 700])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extremes(dtype: torch.dtype, m: int) -> None:
    """Zeros, the largest values, scales whose product leaves the range of float16."""
    k, n = 256, 320
    a, b = matrix(m, k, dtype), weights(k, n, dtype)
    out = poisoned(m, n, torch.bfloat16)
    ones = torch.ones(1, device="cuda")
    ops.cutlass_scaled_mm(out, torch.zeros_like(a), b, ones, ones, None)
    assert (out == 0).all()
    largest = -128 if dtype == torch.int8 else 448.0
    a.fill_(largest)
    b = torch.full((n, k), largest, device="cuda").to(dtype).t()
    ops.cutlass_scaled_mm(out, a, b, ones, ones, None)
    assert (out == torch.tensor(k * largest * largest).to(out.dtype).item()).all()
    half = poisoned(m, n, torch.float16)
    ops.cutlass_scaled_mm(half, a, b, ones * 1e4, ones, None)
    assert half.isposinf().all()
    tiny = torch.full((m,), 1e-30, device="cuda")
    ops.cutlass_scaled_mm(out, a, b, tiny, ones * 1e-12, None)
    assert (out.float() < 1e-30).all()
    assert (out.float() >= 0).all()
    inf = torch.full((n,), float("inf"), device="cuda")
    ops.cutlass_scaled_mm(out, a, b, ones, inf, None)
    assert out.isposinf().all()


@pytest.mark.parametrize("m", [4, 130])
def test_nan(m: int) -> None:
    if FLOAT8 not in DTYPES:
        pytest.skip("no float8 on this GPU")
    a, b = matrix(m, 128, FLOAT8), weights(128, 64, FLOAT8)
    a[m // 2, 5] = float("nan")
    out = poisoned(m, 64, torch.bfloat16)
    ops.cutlass_scaled_mm(out, a, b, scales(m), scales(64), None)
    rows = out.isnan().any(dim=1).nonzero().flatten().tolist()
    assert rows == [m // 2]
    assert out[m // 2].isnan().all()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("m", [1, 17, 65, 333, 1100])
def test_zero_points(m: int, with_bias: bool, per_token: bool) -> None:
    if torch.int8 not in DTYPES:
        pytest.skip("no int8 on this GPU")
    k, n = 496, 1040
    for out_dtype in OUTPUTS:
        a, b = matrix(m, k, torch.int8), weights(k, n, torch.int8)
        sums = b.sum(dim=0, dtype=torch.int32)
        azp = torch.randint(-128, 128, (m,), device="cuda", dtype=torch.int32)
        arguments = (
            scales(m),
            scales(n),
            sums if per_token else sums * 77,
            azp if per_token else None,
            torch.randn(n, device="cuda").to(out_dtype) if with_bias else None,
        )
        out = poisoned(m, n, out_dtype)
        expected = torch.empty(m, n, dtype=torch.float32, device="cuda")
        ops.cutlass_scaled_mm_azp(out, a, b, *arguments)
        reference.cutlass_scaled_mm_azp(expected, a, b, *arguments)
        close(out, expected, torch.int8)


@needs_blocks
@pytest.mark.parametrize("k_n", [(128, 128), (256, 272), (496, 1040), (1152, 4096)], ids=str)
@pytest.mark.parametrize("m", [2, 3, 17, 64, 129, 1100])
def test_blocks(m: int, k_n: tuple[int, int]) -> None:
    k, n = k_n
    blocks_k, blocks_n = -(-k // 128), -(-n // 128)
    a, b = matrix(m, k, FLOAT8), weights(k, n, FLOAT8)
    b_scales = torch.rand(blocks_n, blocks_k, device="cuda").t() + 0.1
    by_rows = torch.rand(m, blocks_k, device="cuda") + 0.1
    by_columns = by_rows.t().contiguous().t()
    padded = torch.zeros(blocks_k, (m + 3) // 4 * 4, device="cuda")
    padded[:, :m] = by_rows.t()
    for a_scales in (by_rows, by_columns, padded.t()[:m]):
        for out_dtype in OUTPUTS:
            out = poisoned(m, n, out_dtype)
            ops.cutlass_scaled_mm(out, a, b, a_scales, b_scales.contiguous(), None)
            again = poisoned(m, n, out_dtype)
            ops.cutlass_scaled_mm(again, a, b, a_scales, b_scales, None)
            assert torch.equal(out, again)
            expected = torch.empty(m, n, dtype=torch.float32, device="cuda")
            reference.cutlass_scaled_mm(expected, a, b, a_scales, b_scales, None)
            close(out, expected, FLOAT8)


# Such as an H200 has rounds of each tile of the experts for (PlanBlocks() says which).
@needs_blocks
@pytest.mark.parametrize(
    "m_n_k",
    [
        (125, 4096, 7168),
        (250, 4096, 7168),
        (381, 5632, 3600),
        (2045, 4096, 1040),
        (4091, 2112, 1040),
    ],
    ids=str,
)
def test_blocks_of_many_rows(m_n_k: tuple[int, int, int]) -> None:
    m, n, k = m_n_k
    a, b = matrix(m, k, FLOAT8), weights(k, n, FLOAT8)
    a_scales = torch.rand(m, -(-k // 128), device="cuda") + 0.1
    b_scales = torch.rand(-(-n // 128), -(-k // 128), device="cuda").t() + 0.1
    expected = torch.empty(m, n, dtype=torch.float32, device="cuda")
    reference.cutlass_scaled_mm(expected, a, b, a_scales, b_scales, None)
    for out_dtype in OUTPUTS:
        out = poisoned(m, n, out_dtype)
        ops.cutlass_scaled_mm(out, a, b, a_scales, b_scales, None)
        close(out, expected, FLOAT8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_to_do(dtype: torch.dtype) -> None:
    out = torch.empty(0, 64, dtype=torch.bfloat16, device="cuda")
    one = torch.ones(1, device="cuda")
    ops.cutlass_scaled_mm(out, matrix(0, 32, dtype), weights(32, 64, dtype), one, one, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_graph(dtype: torch.dtype) -> None:
    a, b = matrix(40, 256, dtype), weights(256, 128, dtype)
    out = poisoned(40, 128, torch.bfloat16)
    arguments = (scales(40), scales(128), None)
    ops.cutlass_scaled_mm(out, a, b, *arguments)
    expected = out.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.cutlass_scaled_mm(out, a, b, *arguments)
    out.fill_(float("nan"))
    graph.replay()
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


@pytest.mark.parametrize("m", [1, 24, 48, 100, 700])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_waits_for_what_came_before(dtype: torch.dtype, m: int) -> None:
    """Kernels may start early: each of a chain must see what the one before it wrote."""
    k = 1024
    starts = [matrix(m, k, dtype) for _ in range(4)]
    b, ones = weights(k, k, dtype), torch.ones(1, device="cuda")
    small = torch.full((k,), 1e-3 if dtype == torch.int8 else 0.03, device="cuda")

    def chain(start: torch.Tensor) -> torch.Tensor:
        a = start.clone()
        for _ in range(6):
            out = torch.empty(m, k, dtype=torch.bfloat16, device="cuda")
            ops.cutlass_scaled_mm(out, a, b, ones, small, None)
            a.copy_(out.clamp(-100, 100))
        return out

    expected = []
    for start in starts:
        expected.append(chain(start))
        torch.cuda.synchronize()
    for _ in range(20):
        for start, wanted in zip(starts, expected, strict=True):
            assert torch.equal(chain(start), wanted)


def good(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "out": poisoned(8, 32, torch.bfloat16),
        "a": matrix(8, 64, dtype),
        "b": weights(64, 32, dtype),
        "a_scales": scales(8),
        "b_scales": scales(32),
        "bias": None,
    }


BAD = {
    "b by rows": ({"b": lambda d: matrix(64, 32, d)}, "b has strides .* want contiguous columns"),
    "N of 24": (
        {"b": lambda d: weights(64, 24, d), "out": lambda d: poisoned(8, 24, torch.bfloat16)},
        "multiples of 16: pad the weights",
    ),
    "K of 40": (
        {"a": lambda d: matrix(8, 40, d), "b": lambda d: weights(40, 32, d)},
        "multiples of 16",
    ),
    "stride of a": ({"a": lambda d: matrix(8, 72, d)[:, :64]}, "a has a stride of 72 elements"),
    "start of a": ({"a": lambda d: matrix(8, 80, d)[:, 8:72]}, "the start of the data"),
    "float32 out": ({"out": lambda d: poisoned(8, 32, torch.float32)}, "out"),
    "other K": ({"b": lambda d: weights(48, 32, d)}, "b"),
    "scales": ({"a_scales": lambda d: scales(5)}, "a_scales has shape"),
    "double scales": ({"b_scales": lambda d: scales(32).double()}, "b_scales"),
    "bias": ({"bias": lambda d: torch.ones(32, device="cuda")}, "bias"),
    "length of the bias": (
        {"bias": lambda d: torch.ones(16, device="cuda", dtype=torch.bfloat16)},
        "bias",
    ),
    "host": ({"b_scales": lambda d: scales(32).cpu()}, "b_scales is not on a CUDA device"),
    "mixed": (
        {"b": lambda d: weights(64, 32, FLOAT8 if d == torch.int8 else torch.int8)},
        "b",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_refused(dtype: torch.dtype, case: str) -> None:
    changes, message = BAD[case]
    arguments = good(dtype) | {name: make(dtype) for name, make in changes.items()}
    with pytest.raises(RuntimeError, match=f"cutlass_scaled_mm: .*{message}"):
        ops.cutlass_scaled_mm(**arguments)


@needs_blocks
def test_blocks_refused() -> None:
    a, b = matrix(8, 256, FLOAT8), weights(256, 256, FLOAT8)
    out = poisoned(8, 256, torch.bfloat16)
    two = torch.ones(8, 2, device="cuda"), torch.ones(2, 2, device="cuda")
    bias = torch.zeros(256, device="cuda", dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="blocks with a bias"):
        ops.cutlass_scaled_mm(out, a, b, *two, bias)
    with pytest.raises(RuntimeError, match="a_scales"):
        ops.cutlass_scaled_mm(out, a, b, torch.ones(8, 3, device="cuda"), two[1], None)


def test_zero_points_refused() -> None:
    if torch.int8 not in DTYPES:
        pytest.skip("no int8 on this GPU")
    arguments = good(torch.int8) | {
        "azp_adj": torch.zeros(31, device="cuda", dtype=torch.int32),
        "azp": None,
    }
    with pytest.raises(RuntimeError, match=r"cutlass_scaled_mm_azp: azp_adj has shape \[31\]"):
        ops.cutlass_scaled_mm_azp(**arguments)


def test_what_is_served() -> None:
    major, minor = torch.cuda.get_device_capability()
    assert ops.cutlass_scaled_mm_supports_fp8(10 * major + minor) == (FLOAT8 in DTYPES)
    assert not ops.cutlass_scaled_mm_supports_fp8(70)
    assert not ops.cutlass_scaled_mm_supports_block_fp8(89)
