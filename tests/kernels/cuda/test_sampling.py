"""Penalties and the largest logits of rows, against the references."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.sampling import select as reference

ops = torch.ops.vllm_kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def mask(rows: int, columns: int, share: float) -> torch.Tensor:
    return torch.rand(rows, columns, device="cuda") < share


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("vocabulary", [1, 15, 100, 4096, 50257, 151936])
@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_penalties(dtype: torch.dtype, rows: int, vocabulary: int, share: float) -> None:
    logits = randn(rows, vocabulary, dtype=dtype)
    logits[0, 0] = float("nan")
    logits[-1, -1] = float("-inf")
    prompt, output = mask(rows, vocabulary, share), mask(rows, vocabulary, share)
    penalties = (torch.rand(rows, device="cuda") + 0.5).to(dtype)
    expected = logits.clone()
    ops.apply_repetition_penalties_(logits, prompt, output, penalties)
    reference.apply_repetition_penalties_(expected, prompt, output, penalties)
    torch.testing.assert_close(logits, expected, rtol=2e-6, atol=0, equal_nan=True)


def test_penalties_of_strided_rows() -> None:
    logits = randn(5, 2000)[:, 3:1003]
    prompt, output = mask(5, 1300, 0.3)[:, 7:1007], mask(5, 1008, 0.3)[:, :1000]
    penalties = torch.full((5,), 1.3, device="cuda")
    expected = logits.clone()
    ops.apply_repetition_penalties_(logits, prompt, output, penalties)
    reference.apply_repetition_penalties_(expected, prompt, output, penalties)
    torch.testing.assert_close(logits, expected, rtol=2e-6, atol=0)


def poisoned(rows: int, k: int) -> torch.Tensor:
    return torch.full((rows, k), -77, dtype=torch.int32, device="cuda")


def prefill(logits: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, k: int) -> None:
    rows = len(logits)
    ours, theirs = poisoned(rows, k), poisoned(rows, k)
    args = (rows, logits.stride(0), logits.stride(1), k)
    ops.top_k_per_row_prefill(logits, starts, ends, ours, *args)
    reference.top_k_per_row_prefill(logits, starts, ends, theirs, *args)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("k", [1, 7, 512, 2048])
@pytest.mark.parametrize("columns", [1, 100, 2048, 5001, 40000])
@pytest.mark.parametrize("kind", ["normal", "few", "wide", "ordered"])
def test_prefill(k: int, columns: int, kind: str) -> None:
    rows = 9
    logits = randn(rows, columns)
    if kind == "few":
        logits = logits.sign() * (logits.abs() > 1)
    elif kind == "wide":
        logits = logits * torch.exp(randn(rows, columns) * 30)
    elif kind == "ordered":
        logits = logits.sort(-1).values
    starts = torch.randint(0, columns, (rows,), device="cuda").int()
    starts[:3] = 0
    ends = (starts + torch.randint(0, columns + 1, (rows,), device="cuda")).clamp(max=columns)
    ends[0] = columns
    prefill(logits, starts, ends.int(), k)


def test_prefill_of_special_values_and_strides() -> None:
    logits = randn(6, 3000)
    logits[0, ::7] = float("nan")
    logits[1, 5:] = float("-inf")
    logits[2] = float("inf")
    logits[3] = 0.0
    logits[3, ::2] = -0.0
    logits[4, 1:] = float("nan")
    starts = torch.tensor([0, 0, 3, 1, 0, 2], device="cuda").int()
    ends = torch.full((6,), 2999, device="cuda").int()
    prefill(logits, starts, ends, 512)
    prefill(logits.t().contiguous().t(), starts, ends, 512)
    prefill(torch.cat([logits, logits], 1)[:, 1:3001], starts, ends, 512)


@pytest.mark.parametrize("next_n", [1, 3])
@pytest.mark.parametrize("per_row", [False, True])
def test_decode(next_n: int, per_row: bool) -> None:
    sequences, columns, k = 8, 9000, 1024
    logits = randn(sequences * next_n, columns)
    shape = (sequences, next_n) if per_row else (sequences,)
    lengths = torch.randint(0, columns + 1, shape, device="cuda").int()
    rows = sequences * next_n
    ours, theirs = poisoned(rows, k), poisoned(rows, k)
    args = (rows, logits.stride(0), logits.stride(1), k)
    ops.top_k_per_row_decode(logits, next_n, lengths, ours, *args)
    reference.top_k_per_row_decode(logits, next_n, lengths, theirs, *args)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["persistent_topk", "cooperative_topk"])
@pytest.mark.parametrize("k", [512, 1024, 2048])
def test_top_k_of_lengths(name: str, k: int) -> None:
    logits = randn(5, 131072)
    lengths = torch.tensor([131072, 0, k, k + 1, 70001], device="cuda").int()
    workspace = torch.empty(1 << 20, dtype=torch.uint8, device="cuda")
    ours, theirs = poisoned(5, k), poisoned(5, k)
    getattr(ops, name)(logits, lengths, ours, workspace, k, 131072)
    getattr(reference, name)(logits, lengths, theirs, workspace, k, 131072)
    assert torch.equal(ours, theirs)
    assert set(ours[0].tolist()) == set(logits[0].topk(k).indices.tolist())


def test_capture() -> None:
    logits, k = randn(4, 5000), 512
    lengths = torch.full((4,), 5000, device="cuda").int()
    out = poisoned(4, k)
    ops.persistent_topk(logits, lengths, out, lengths, k, 5000)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.persistent_topk(logits, lengths, out, lengths, k, 5000)
    logits.normal_()
    lengths.fill_(4000)
    graph.replay()
    expected = poisoned(4, k)
    reference.persistent_topk(logits, lengths, expected, lengths, k, 5000)
    assert torch.equal(out, expected)


def test_bad_input_is_refused() -> None:
    logits, some = randn(4, 100), mask(4, 100, 0.5)
    with pytest.raises(RuntimeError, match="repetition_penalties"):
        ops.apply_repetition_penalties_(logits, some, some, randn(3))
    with pytest.raises(RuntimeError, match="prompt_mask"):
        ops.apply_repetition_penalties_(logits, some.int(), some, randn(4))
    ends = torch.full((4,), 100, device="cuda").int()
    with pytest.raises(RuntimeError, match="strides are 100 and 2"):
        ops.top_k_per_row_prefill(logits, ends, ends, poisoned(4, 8), 4, 100, 2, 8)
    with pytest.raises(RuntimeError, match="lengths has shape"):
        ops.persistent_topk(logits, ends[:3], poisoned(4, 8), ends, 8, 100)
