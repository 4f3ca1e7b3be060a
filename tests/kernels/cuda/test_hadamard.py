"""The Walsh-Hadamard transform against the product with Sylvester's matrix in float64."""

from __future__ import annotations

import pytest
import torch

ops = torch.ops.vllm_kernels

# One rounding of the result; in float32, of log2(n) additions of values of the row's size.
RTOL = {torch.float32: 1e-5, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}
WIDTHS = [1 << bits for bits in range(16)]


def exact(x: torch.Tensor) -> torch.Tensor:
    """Stage by stage, from the largest distance to the smallest: the kernel goes the other way."""
    width = x.shape[-1]
    rows, apart = x.double().reshape(-1, width), width // 2
    while apart:
        pairs = rows.view(-1, width // (2 * apart), 2, apart)
        sums, differences = pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]
        rows = torch.stack((sums, differences), 2).view(-1, width)
        apart //= 2
    return (rows / width**0.5).view(x.shape)


def close(actual: torch.Tensor, x: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), exact(x), rtol=RTOL[actual.dtype], atol=4e-6)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_transform(dtype: torch.dtype, width: int, rows: int) -> None:
    x = torch.randn(rows, width, device="cuda").to(dtype)
    before = x.clone()
    result = ops.hadacore_transform(x, False)
    assert result.data_ptr() != x.data_ptr()
    assert torch.equal(x, before)
    close(result, before)
    same = ops.hadacore_transform(x, True)
    assert same.data_ptr() == x.data_ptr()
    assert torch.equal(x, result)


@pytest.mark.parametrize("width", [4, 8, 64, 1024, 8192])
def test_is_sylvesters_matrix(width: int) -> None:
    """Of unit vectors: the signs are those of the bits that row and column have in common."""
    columns = torch.tensor([0, 1, width // 2, width - 1], device="cuda")
    x = torch.zeros(4, width, device="cuda")
    x[torch.arange(4), columns] = 1.0
    common = columns[:, None] & torch.arange(width, device="cuda")
    bits = sum((common >> bit) & 1 for bit in range(width.bit_length()))
    expected = torch.where(bits % 2 == 1, -1.0, 1.0) * width**-0.5
    torch.testing.assert_close(ops.hadacore_transform(x, False), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [2, 16, 512, 4096])
def test_strides(dtype: torch.dtype, width: int) -> None:
    """Rows with gaps and of any start, in two leading dimensions; what lies between stays."""
    wide = torch.randn(5, 3, width + 5, device="cuda").to(dtype)
    before, x = wide.clone(), wide[:, :, 1 : width + 1]
    expected = x.clone()
    ops.hadacore_transform(x, True)
    close(x, expected)
    assert torch.equal(wide[:, :, 0], before[:, :, 0])
    assert torch.equal(wide[:, :, width + 1 :], before[:, :, width + 1 :])


def test_twice_is_nothing() -> None:
    x = torch.randn(9, 2048, device="cuda")
    torch.testing.assert_close(
        ops.hadacore_transform(ops.hadacore_transform(x, False), False), x, rtol=1e-5, atol=1e-5
    )


def test_no_rows() -> None:
    assert ops.hadacore_transform(torch.empty(0, 64, device="cuda"), False).shape == (0, 64)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 48), r"x has shape \[2, 48\], want a power of two up to 32768"),
        (torch.zeros(1, 65536), r"x has shape \[1, 65536\], want a power of two"),
        (torch.zeros(2, 0), r"x has shape \[2, 0\], want a power of two"),
        (torch.zeros(2, 8, dtype=torch.int8), "x is int8"),
        (torch.zeros(8, 8).T[:, :4], "x has stride 8 in its last dimension, want 1"),
    ],
)
def test_bad_input(x: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^hadacore_transform: .*{message}"):
        ops.hadacore_transform(x.cuda(), True)


def test_in_a_graph() -> None:
    x = torch.randn(4, 1024, device="cuda").bfloat16()
    expected = ops.hadacore_transform(x, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = ops.hadacore_transform(x, False)
    result.zero_()
    graph.replay()
    assert torch.equal(result, expected)
