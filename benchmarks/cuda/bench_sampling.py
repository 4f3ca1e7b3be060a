"""Penalties and the largest logits of rows on a GPU, against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, main

ops = torch.ops.vllm_kernels


def penalise(
    logits: torch.Tensor, prompt: torch.Tensor, output: torch.Tensor, penalties: torch.Tensor
) -> None:
    factor = torch.where(prompt | output, penalties.unsqueeze(1), 1.0)
    logits *= torch.where(logits > 0, 1.0 / factor, factor)


compiled: Callable[..., object] = torch.compile(penalise, dynamic=False)


def _penalties(rows: int, vocabulary: int) -> Case:
    def make() -> dict[str, Call]:
        logits = torch.randn(rows, vocabulary, device="cuda")
        prompt, output = (torch.rand(rows, vocabulary, device="cuda") < 0.005 for _ in range(2))
        args = (logits, prompt, output, torch.full((rows,), 1.0001, device="cuda"))
        return {
            "ours": lambda: ops.apply_repetition_penalties_(*args),
            "eager": lambda: penalise(*args),
            "compile": lambda: compiled(*args),
        }

    shape = {"rows": rows, "vocabulary": vocabulary}
    moved = 2 * rows * vocabulary  # the two masks
    return Case("repetition_penalties", shape, "f32", make, "decode", bytes_moved=moved)


def _select(rows: int, columns: int, k: int) -> Case:
    def make() -> dict[str, Call]:
        logits = torch.randn(rows, columns, device="cuda")
        lengths = torch.full((rows,), columns, dtype=torch.int32, device="cuda")
        out = torch.empty(rows, k, dtype=torch.int32, device="cuda")
        return {
            "ours": lambda: ops.persistent_topk(logits, lengths, out, lengths, k, columns),
            "eager": lambda: logits.topk(k, dim=-1, sorted=False),
        }

    shape = {"k": k, "rows": rows, "columns": columns}
    return Case("topk", shape, "f32", make, "decode", bytes_moved=4 * rows * columns)


def cases() -> Iterator[Case]:
    for rows in (16, 256):
        yield _penalties(rows, 151936)
    for rows, columns in ((16, 8192), (16, 131072), (1024, 32768)):
        yield _select(rows, columns, 2048)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "sampling", cases))
