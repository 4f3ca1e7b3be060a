"""Activations against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops

ops = torch.ops.vllm_kernels
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = {1: "decode", 8: "decode", 512: "prefill", 2048: "prefill"}
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


def _case(
    label: str,
    group: str,
    op: Callable[..., None],
    eager: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    out: torch.Tensor,
) -> harness.Case:
    peers = {"eager": lambda: eager(x), "compile": harness.compiled(eager, x)}
    return harness.Case(label, group, lambda: op(out, x), peers, bytes_moved=x.nbytes + out.nbytes)


def _gated(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    activation = GATED[name]

    def eager(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return activation(x[..., :half]) * x[..., half:]

    return eager


def cases() -> Iterator[harness.Case]:
    """silu at both widths, the other functions at the first."""
    for name, dtype in DTYPES.items():
        for tokens, group in TOKENS.items():
            for op in GATED:
                for width in WIDTHS if op == "silu_and_mul" else WIDTHS[:1]:
                    x = torch.randn(tokens, 2 * width).to(dtype)
                    out = torch.empty(tokens, width, dtype=dtype)
                    label = f"{op} {tokens}x{width} {name}"
                    yield _case(label, group, getattr(ops, op), _gated(op), x, out)
            for op, eager in PLAIN.items():
                x = torch.randn(tokens, WIDTHS[0]).to(dtype)
                label = f"{op} {tokens}x{WIDTHS[0]} {name}"
                yield _case(label, group, getattr(ops, op), eager, x, torch.empty_like(x))


if __name__ == "__main__":
    raise SystemExit(harness.main("activation", cases))
