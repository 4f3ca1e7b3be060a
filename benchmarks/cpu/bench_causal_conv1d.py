"""The causal convolution before linear attention against PyTorch's, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
DIM = 8192  # queries, keys and values of Qwen3-Next
WIDTH = 4
SEQUENCES = (1, 8, 64)
PROMPTS = (128, 2048)


def eager(states: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[sequences, dim, tokens] behind [sequences, dim, width - 1], which is replaced."""
    inputs = torch.cat((states, x), -1)
    states.copy_(inputs[..., 1 - WIDTH :])
    return F.silu(F.conv1d(inputs, weight[:, None], None, groups=DIM))


def _inputs(tokens: int, sequences: int, dtype: str) -> tuple[torch.Tensor, ...]:
    """Inputs, weight, packed weight, and the states as the engine and as PyTorch want them."""
    kind = DTYPES[dtype]
    x, weight = torch.randn(tokens, DIM).to(kind), torch.randn(DIM, WIDTH).to(kind)
    states = torch.zeros(sequences, WIDTH - 1, DIM, dtype=kind).transpose(1, 2)
    return x, weight, ops.causal_conv1d_weight_pack(weight), states, states.contiguous()


def _next(sequences: int, dtype: str) -> Case:
    def make() -> dict[str, Call]:
        x, weight, packed, states, dense = _inputs(sequences, sequences, dtype)
        slots = torch.arange(sequences, dtype=torch.int32)
        return {
            "ours": lambda: ops.causal_conv1d_update_cpu(
                x, states, packed, None, True, None, slots, -1, True
            ),
            "eager": lambda: eager(dense, x[..., None], weight),
            "compile": compiled(eager, dense, x[..., None], weight),
        }

    return _case("causal_conv1d_update_cpu", sequences, dtype, make)


def _prompt(tokens: int, dtype: str) -> Case:
    def make() -> dict[str, Call]:
        x, weight, packed, states, dense = _inputs(tokens, 1, dtype)
        starts = torch.tensor([0, tokens], dtype=torch.int32)
        return {
            "ours": lambda: ops.causal_conv1d_fwd_cpu(
                x.t(), packed, None, states, starts, None, None, True, -1, True
            ),
            "eager": lambda: eager(dense, x.t()[None], weight),
            "compile": compiled(eager, dense, x.t()[None], weight),
        }

    return _case("causal_conv1d_fwd_cpu", tokens, dtype, make)


def _case(op: str, tokens: int, dtype: str, make: Callable[[], dict[str, Call]]) -> Case:
    moved = 2 * tokens * DIM * DTYPES[dtype].itemsize
    return Case(op, {"tokens": tokens, "dim": DIM}, dtype, make, load(tokens), bytes_moved=moved)


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for sequences in SEQUENCES:
            yield _next(sequences, dtype)
        for tokens in PROMPTS:
            yield _prompt(tokens, dtype)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "causal_conv1d", cases))
