"""Embeddings of a vocabulary that is split over ranks, against the reference."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.sampling import embedding as reference

ops = torch.ops.vllm_kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]
# Original tokens [start, end), padding, added tokens [start, end): a rank in the middle, one with
# nothing added, one with nothing at all.
PARTS = [(100, 180, 12, 1000, 1005), (0, 64, 0, 64, 64), (7, 7, 0, 9, 9)]


def check(tokens: torch.Tensor, weight: torch.Tensor, part: tuple[int, int, int, int, int]) -> None:
    ours = torch.full((len(tokens), weight.shape[1]), 77.0, device="cuda").to(weight.dtype)
    theirs = torch.empty_like(ours)
    ops.vocab_parallel_embedding(ours, tokens, weight, *part)
    reference.vocab_parallel_embedding(theirs, tokens, weight, *part)
    # Copies: the same bits.
    assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "bf16", "f16", "e4m3"])
@pytest.mark.parametrize("integer", [torch.int32, torch.int64], ids=["i32", "i64"])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_rows_of_one_rank(
    dtype: torch.dtype, integer: torch.dtype, part: tuple[int, int, int, int, int]
) -> None:
    start, end, padding, added_start, added_end = part
    rows = max(1, end - start + padding + added_end - added_start)
    edges = (-1, 0, start - 1, start, end - 1, end, added_start - 1, added_start, added_end - 1)
    drawn = torch.randint(-5, 1100, (50,), device="cuda")
    tokens = torch.cat([torch.tensor([*edges, added_end, 1 << 30], device="cuda"), drawn])
    for width in (1, 2, 7, 64, 130, 4096, 4100):
        weight = torch.randn(rows, width, device="cuda").to(dtype)
        check(tokens.to(integer), weight, part)


def test_strided_rows() -> None:
    weight = torch.randn(80, 300, device="cuda")
    tokens = torch.randint(0, 90, (33,), device="cuda")
    # Rows that begin at 16 bytes, at 4, and of which only some columns are taken.
    for view in (weight[:, :256], weight[:, 1:257], weight[::2, 4:260]):
        check(tokens, view, (10, 10 + len(view), 0, 0, 0))


def test_no_tokens_and_no_rows() -> None:
    none, weight = torch.empty(0, dtype=torch.int64, device="cuda"), torch.ones(4, 8, device="cuda")
    check(none, weight, PARTS[2])
    check(torch.arange(20, device="cuda"), weight[:0], PARTS[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": (0, 9, 0, 0, 0)}, "weight has 8 rows, want at least those of 9 original tokens"),
        ({"part": (0, 4, 3, 5, 7)}, "weight has 8 rows, want at least those of 4 original tokens"),
        ({"part": (0, 4, -1, 0, 0)}, "weight has 8 rows"),
        ({"part": (5, 4, 0, 0, 0)}, r"the original tokens are \[5, 4\)"),
        ({"part": (0, 4, 0, -2, 0)}, r"the added tokens are \[-2, 0\)"),
        ({"part": (0, 1 << 62, 1 << 62, 0, 1 << 62)}, "weight has 8 rows"),
        ({"tokens": torch.float32}, "input_ids is float32"),
        ({"width": 15}, "out has shape"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    weight = torch.ones(8, 16, device="cuda")
    tokens = torch.zeros(3, dtype=change.get("tokens", torch.int32), device="cuda")  # type: ignore[call-overload]
    out = torch.zeros(3, change.get("width", 16), device="cuda")  # type: ignore[call-overload]
    part = change.get("part", (0, 8, 0, 0, 0))
    with pytest.raises(RuntimeError, match=message):
        ops.vocab_parallel_embedding(out, tokens, weight, *part)  # type: ignore[misc]
    assert not out.any()
