"""The Walsh-Hadamard transform on a GPU against the matrix product and PyTorch's stages."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main
from vllm_kernels.reference import hadamard as reference

ops = torch.ops.vllm_kernels

SHAPES = [(16, 128), (16, 4096), (4096, 128), (4096, 4096), (4096, 16384)]
# A wider matrix takes longer than anything one would compare with.
WIDEST_PRODUCT = 4096


def _case(rows: int, width: int) -> Case:
    def make() -> dict[str, Call]:
        x = torch.randn(rows, width, dtype=torch.bfloat16, device="cuda")
        calls: dict[str, Call] = {
            "ours": lambda: ops.hadacore_transform(x, True),
            "eager": lambda: reference.hadacore_transform(x, True),
        }
        if width <= WIDEST_PRODUCT:
            matrix = reference.hadacore_transform(torch.eye(width, device="cuda"), False).bfloat16()
            calls["matmul"] = lambda: x @ matrix
        return calls

    shape = {"rows": rows, "width": width}
    return Case("hadacore_transform", shape, "bf16", make, load(rows), bytes_moved=4 * rows * width)


def cases() -> Iterator[Case]:
    for rows, width in SHAPES:
        yield _case(rows, width)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "hadamard", cases))
