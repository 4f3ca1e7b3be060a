"""Products with 2:4 sparse weights, against the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference import sparse_gemm as reference

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
DTYPES = [FLOAT8, torch.int8, torch.bfloat16]
# N, K: multiples of 16 and 32, most of no block.
SHAPES = [(16, 32), (80, 96), (64, 128), (272, 160), (1040, 1056), (4096, 4096)]


@pytest.fixture(autouse=True)
def hopper() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("sparse products are for GPUs of 9.0 alone")


def matrix(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-128, 128, (rows, columns), device="cuda", dtype=torch.int8)
    return torch.randn(rows, columns, device="cuda").to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


def scales(count: int) -> torch.Tensor:
    return torch.rand(count, device="cuda") * 0.02 + 0.001


@pytest.mark.parametrize("n_k", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compress(dtype: torch.dtype, n_k: tuple[int, int]) -> None:
    weight = matrix(*n_k, dtype)
    for one in (weight, torch.zeros_like(weight), matrix(n_k[0], n_k[1] + 32, dtype)[:, 16:-16]):
        for found, wanted in zip(
            ops.sparse_compress(one), reference.sparse_compress(one), strict=True
        ):
            assert torch.equal(bits(found), bits(wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compress_keeps_what_is_there(dtype: torch.dtype) -> None:
    weight = matrix(144, 224, dtype)
    mask = torch.rand(144, 56, 4, device="cuda").argsort(dim=2) < 2
    weight = torch.where(mask.reshape(144, 224), weight.float(), 0.0).to(dtype)
    assert torch.equal(reference.dense(*ops.sparse_compress(weight)), weight.float())


@pytest.mark.parametrize("n_k", SHAPES, ids=str)
@pytest.mark.parametrize("m", [1, 3, 17, 64, 65, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_product(dtype: torch.dtype, m: int, n_k: tuple[int, int]) -> None:
    n, k = n_k
    values, metadata = ops.sparse_compress(matrix(n, k, dtype))
    a = matrix(m, k + 16, dtype)[:, :k]
    outputs = [dtype] if dtype.itemsize == 2 else [torch.bfloat16, torch.float16]
    for out_dtype in outputs:
        for rows, columns, with_bias in ((m, n, True), (1, n, False), (m, 1, False), (1, 1, True)):
            bias = torch.randn(n, device="cuda").to(out_dtype) if with_bias else None
            arguments = (a, values, metadata, scales(rows), scales(columns), bias)
            out = torch.full((m, n), float("nan"), device="cuda").to(out_dtype)
            expected = torch.empty(m, n, device="cuda")
            ops.sparse_scaled_mm(out, *arguments)
            reference.sparse_scaled_mm(expected, *arguments)
            eps = torch.finfo(out_dtype).eps
            loose = 6e-3 if dtype == FLOAT8 else eps
            size = expected.abs().max().item()
            torch.testing.assert_close(out.float(), expected, rtol=1.01 * eps, atol=loose * size)


def good() -> dict[str, Any]:
    values, metadata = ops.sparse_compress(matrix(32, 64, FLOAT8))
    return {
        "out": torch.empty(4, 32, device="cuda", dtype=torch.bfloat16),
        "a": matrix(4, 64, FLOAT8),
        "values": values,
        "metadata": metadata,
        "a_scales": scales(4),
        "b_scales": scales(32),
        "bias": None,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": lambda: matrix(4, 96, FLOAT8)}, "a"),
        ({"a": lambda: matrix(4, 64, torch.int8)}, "values"),
        ({"a": lambda: matrix(4, 72, FLOAT8)[:, :64]}, "a has a stride of 72"),
        ({"metadata": lambda: torch.zeros(8, dtype=torch.uint8, device="cuda")}, "metadata"),
        ({"a_scales": lambda: scales(3)}, "a_scales has 3 elements, want 1 or 4"),
        ({"bias": lambda: torch.zeros(32, device="cuda")}, "bias"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    arguments = good() | {name: make() for name, make in change.items()}
    with pytest.raises(RuntimeError, match=f"sparse_scaled_mm: .*{message}"):
        ops.sparse_scaled_mm(**arguments)


def test_compress_refused() -> None:
    for shape in ((24, 64), (32, 48)):
        with pytest.raises(RuntimeError, match="want N to be a multiple of 16 and K of 32"):
            ops.sparse_compress(matrix(*shape, torch.bfloat16))
