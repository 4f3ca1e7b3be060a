"""rms_norm and fused_add_rms_norm against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

EPSILON = 1e-6
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# Tokens in flight: decode of one to eight sequences, prefill of one prompt.
TOKENS = (1, 8, 512, 2048)
HIDDEN = 4096


def eager_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def eager_fused(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return F.rms_norm(total, (x.shape[-1],), weight, EPSILON), total


def _norm(tokens: int, dtype: str) -> Case:
    def make() -> dict[str, Call]:
        x = torch.randn(tokens, HIDDEN, dtype=DTYPES[dtype])
        weight, out = torch.randn(HIDDEN, dtype=x.dtype), torch.empty_like(x)
        return {
            "ours": lambda: ops.rms_norm(out, x, weight, EPSILON),
            "eager": lambda: eager_norm(x, weight),
            "compile": compiled(eager_norm, x, weight),
        }

    return _case("rms_norm", tokens, dtype, make, tensors=2)


def _fused(tokens: int, dtype: str) -> Case:
    def make() -> dict[str, Call]:
        x = torch.randn(tokens, HIDDEN, dtype=DTYPES[dtype])
        # Ours works in place, call after call: a small weight keeps the growing sum finite.
        weight = torch.randn(HIDDEN, dtype=x.dtype) * 1e-3
        ours, ours_residual, residual = x.clone(), torch.randn_like(x), torch.randn_like(x)
        return {
            "ours": lambda: ops.fused_add_rms_norm(ours, ours_residual, weight, EPSILON),
            "eager": lambda: eager_fused(x, residual, weight),
            "compile": compiled(eager_fused, x, residual, weight),
        }

    return _case("fused_add_rms_norm", tokens, dtype, make, tensors=4)


def _case(
    op: str, tokens: int, dtype: str, make: Callable[[], dict[str, Call]], tensors: int
) -> Case:
    moved = tensors * tokens * HIDDEN * DTYPES[dtype].itemsize
    shape = {"tokens": tokens, "hidden": HIDDEN}
    return Case(op, shape, dtype, make, load(tokens), bytes_moved=moved)


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for tokens in TOKENS:
            yield _norm(tokens, dtype)
            yield _fused(tokens, dtype)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "norm", cases))
