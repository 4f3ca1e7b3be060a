"""Activations against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = (1, 8, 512, 2048)
# Widths of a 7 B and of a 70 B model's MLP.
WIDTHS = (11008, 28672)

GATED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu_and_mul": F.silu,
    "gelu_and_mul": F.gelu,
    "gelu_tanh_and_mul": lambda x: F.gelu(x, approximate="tanh"),
}
PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
}


def _eager(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if name in PLAIN:
        return PLAIN[name]
    activation = GATED[name]

    def eager(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return activation(x[..., :half]) * x[..., half:]

    return eager


def _case(name: str, tokens: int, width: int, dtype: str) -> Case:
    inputs = 2 if name in GATED else 1

    def make() -> dict[str, Call]:
        op, eager = getattr(ops, name), _eager(name)
        x = torch.randn(tokens, inputs * width).to(DTYPES[dtype])
        out = torch.empty(tokens, width, dtype=x.dtype)
        return {
            "ours": lambda: op(out, x),
            "eager": lambda: eager(x),
            "compile": compiled(eager, x),
        }

    moved = (inputs + 1) * tokens * width * DTYPES[dtype].itemsize
    shape = {"tokens": tokens, "width": width}
    return Case(name, shape, dtype, make, load(tokens), bytes_moved=moved)


def cases() -> Iterator[Case]:
    """silu at both widths, the other functions at the first."""
    for dtype in DTYPES:
        for tokens in TOKENS:
            for name in (*GATED, *PLAIN):
                for width in WIDTHS if name == "silu_and_mul" else WIDTHS[:1]:
                    yield _case(name, tokens, width, dtype)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "activation", cases))
