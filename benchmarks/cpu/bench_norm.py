"""rms_norm and fused_add_rms_norm against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from harness import Case, compiled, main

import vllm_kernels  # noqa: F401

ops = torch.ops.vllm_kernels

EPSILON = 1e-6
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# Tokens in flight: decode of one to eight sequences, prefill of one prompt.
TOKENS = {1: "decode", 8: "decode", 512: "prefill", 2048: "prefill"}
HIDDEN = 4096


def eager_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def eager_fused(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return F.rms_norm(total, (x.shape[-1],), weight, EPSILON), total


def _norm(tokens: int, group: str, name: str) -> Case:
    x = torch.randn(tokens, HIDDEN, dtype=DTYPES[name])
    weight, out = torch.randn(HIDDEN, dtype=x.dtype), torch.empty_like(x)
    return Case(
        f"rms_norm {tokens}x{HIDDEN} {name}",
        group,
        lambda: ops.rms_norm(out, x, weight, EPSILON),
        {"eager": lambda: eager_norm(x, weight), "compile": compiled(eager_norm, x, weight)},
        bytes_moved=2 * x.nbytes,
    )


def _fused(tokens: int, group: str, name: str) -> Case:
    x = torch.randn(tokens, HIDDEN, dtype=DTYPES[name])
    # Ours works in place, call after call: a small weight keeps the growing sum finite.
    weight = torch.randn(HIDDEN, dtype=x.dtype) * 1e-3
    ours, ours_residual, residual = x.clone(), torch.randn_like(x), torch.randn_like(x)
    return Case(
        f"fused_add_rms_norm {tokens}x{HIDDEN} {name}",
        group,
        lambda: ops.fused_add_rms_norm(ours, ours_residual, weight, EPSILON),
        {
            "eager": lambda: eager_fused(x, residual, weight),
            "compile": compiled(eager_fused, x, residual, weight),
        },
        bytes_moved=4 * x.nbytes,
    )


def cases() -> Iterator[Case]:
    for name in DTYPES:
        for tokens, group in TOKENS.items():
            yield _norm(tokens, group, name)
            yield _fused(tokens, group, name)


if __name__ == "__main__":
    raise SystemExit(main("norm", cases))
