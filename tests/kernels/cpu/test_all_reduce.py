"""The sum over ranks, per tier: the reference's bits, whatever the widths, strides and values."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.all_reduce import cpu as reference

ops = torch.ops.vllm_kernels
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check(parts: torch.Tensor) -> None:
    """The same bits as the reference, but for those of a NaN."""
    out, expected = (parts.new_full(parts.shape[1:], 7) for _ in range(2))
    ops.rank_sum(out, parts)
    reference.rank_sum(expected, parts)
    assert torch.equal(out.isnan(), expected.isnan())
    bits = torch.int32 if parts.dtype == torch.float32 else torch.int16
    assert torch.equal(out.nan_to_num(0.0).view(bits), expected.nan_to_num(0.0).view(bits))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 17, 64])
def test_widths(tier: str, dtype: torch.dtype, ranks: int) -> None:
    for width in (0, 1, 15, 16, 17, 67, 1000):
        check(torch.randn(ranks, width).to(dtype) * 100)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_than_a_threads_share(tier: str, dtype: torch.dtype) -> None:
    check(torch.randn(3, 300_001).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ranks_that_lie_apart(tier: str, dtype: torch.dtype) -> None:
    wide = torch.randn(4, 200).to(dtype)
    check(wide[:, 3:140])
    check(wide[::2, :99])
    check(wide[1:2, :99].expand(5, 99))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_values(tier: str, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    values = [0.0, -0.0, limits.max, -limits.max, limits.tiny, limits.smallest_normal / 4]
    values += [float("inf"), float("-inf"), float("nan"), 1.0, limits.eps / 2]
    every = torch.tensor(values, dtype=torch.float64).to(dtype)
    check(torch.cartesian_prod(every, every, every).t().contiguous())


def test_halfway_values_are_rounded_once(tier: str) -> None:
    """Rounded in between, each half of a last place would be lost, to the even neighbour."""
    parts = torch.tensor([[1.0], [2.0**-8], [2.0**-8]]).bfloat16()
    out = parts.new_empty(1)
    ops.rank_sum(out, parts)
    assert out.item() == 1 + 2.0**-7


def test_refusals(tier: str, subtests: pytest.Subtests) -> None:
    parts = torch.zeros(2, 8)
    cases = [
        (parts[0].clone(), parts.double(), "parts is float64"),
        (parts[0].clone(), parts[0].clone(), r"parts has shape \[8\], want 2 dimensions"),
        (torch.zeros(8), torch.zeros(0, 8), r"parts has shape \[0, 8\], want 1 to 64 ranks"),
        (torch.zeros(8), torch.zeros(65, 8), r"parts has shape \[65, 8\], want 1 to 64 ranks"),
        # Pointers to so many would take 16 GiB, and the sum minutes.
        (torch.zeros(8), parts[:1].expand(2**31, 8), "want 1 to 64 ranks"),
        (torch.zeros(8), torch.zeros(8, 2).t(), "parts"),
        (torch.zeros(7), parts, r"out has shape \[7\]"),
        (torch.zeros(8).half(), parts, "out is float16"),
        (torch.zeros(16)[::2], parts, "out"),
    ]
    for out, given, message in cases:
        with (
            subtests.test(message),
            pytest.raises(RuntimeError, match=f"^rank_sum: .*{message}"),
        ):
            ops.rank_sum(out, given)
