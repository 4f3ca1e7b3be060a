"""Selective state spaces against PyTorch, eager and compiled.

One token against the recurrence; prompts against it and, as models' own PyTorch code computes them,
against products of chunks of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.cpu.chunks import CHUNKS_ONLY, chunked
from benchmarks.harness import Call, Case, Compilation, compiled, left_out, load, main

ops = torch.ops.vllm_kernels

# Of Mamba2 2.7B: 80 heads of 64 rows in one group, states of 128.
HEADS, ROWS, STATE = 80, 64, 128
SEQUENCES = (1, 8)
PROMPTS = (128, 1024)


def step(
    state: torch.Tensor,
    a: torch.Tensor,
    x: torch.Tensor,
    dt: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
) -> torch.Tensor:
    """One token of [sequences, heads, ...]; the state is replaced."""
    decay = (a * dt).exp()[..., None, None]
    input_ = (x.float() * dt[..., None])[..., None] * b.float()[:, :, None]
    state.copy_(state * decay + input_)
    return (state * c.float()[:, :, None]).sum(-1)


def prompt(state: torch.Tensor, a: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
    """:func:`step` of [tokens, ...], token after token."""
    return torch.cat([step(state, a, *(x[t : t + 1] for x in rows)) for t in range(len(rows[0]))])


def chunk(state: torch.Tensor, a: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
    """The same for some tokens at once: a product of theirs, and one with the state before them."""
    x, dt, b, c = rows
    lower = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    keys, queries = b[:, 0].float(), c[:, 0].float()  # of the one group
    values = (x.float() * dt[..., None]).transpose(0, 1)
    logs = (a * dt).cumsum(0).t()  # [heads, tokens]
    decay = (logs[:, :, None] - logs[:, None]).masked_fill(~lower, -torch.inf).exp()
    inside = ((queries @ keys.t()) * decay) @ values
    before = (queries @ state[0].transpose(1, 2)) * logs.exp()[..., None]
    left = (logs[:, -1:] - logs).exp()[..., None]
    added = (values * left).transpose(1, 2) @ keys
    state.copy_(state * logs[:, -1].exp()[:, None, None] + added)
    return (inside + before).transpose(0, 1)


def _inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    b, c = torch.randn(2, tokens, 1, STATE).bfloat16()
    return torch.randn(tokens, HEADS, ROWS).bfloat16(), b, c


def _next(sequences: int) -> Case:
    def make() -> dict[str, Call]:
        x, b, c = _inputs(sequences)
        dt, a = torch.randn(sequences, HEADS).bfloat16(), -torch.ones(HEADS)
        bias = torch.zeros(HEADS)
        states, out = torch.zeros(sequences, HEADS, ROWS, STATE), torch.empty_like(x)
        other, steps = states.clone(), F.softplus(dt.float())
        slots = torch.arange(sequences, dtype=torch.int32)
        return {
            "ours": lambda: ops.selective_state_update_cpu(
                states, x, dt, a, b, c, None, None, bias, True, slots, slots, -1, out, None, None
            ),
            "eager": lambda: step(other, a, x, steps, b, c),
            "compile": compiled(step, other, a, x, steps, b, c),
        }

    moved = 2 * sequences * HEADS * ROWS * STATE * 4
    return Case(
        "selective_state_update", {"sequences": sequences}, "bf16", make, load(sequences),
        bytes_moved=moved,
    )  # fmt: skip


def _prompt(tokens: int) -> Case:
    def make() -> dict[str, Call]:
        x, b, c = _inputs(tokens)
        dt, a, out = torch.rand(tokens, HEADS), -torch.ones(HEADS), torch.empty_like(x)
        states = torch.zeros(1, HEADS, ROWS, STATE)
        other, starts = states.clone(), torch.tensor([0, tokens], dtype=torch.int32)
        fast = torch.compile(chunk, dynamic=False)

        def by_token() -> object:
            return prompt(other, a, x, dt, b, c)

        def by_fast_chunks() -> object:
            return chunked(partial(fast, other, a), x, dt, b, c)

        return {
            "ours": lambda: ops.mamba_chunk_scan_fwd_cpu(
                out, states, x, dt, a, b, c, None, None, starts
            ),
            "eager": by_token if tokens <= CHUNKS_ONLY else left_out,
            "chunked": lambda: chunked(partial(chunk, other, a), x, dt, b, c),
            "chunked, compile": by_fast_chunks if Compilation.wanted else left_out,
        }

    flops = 5 * tokens * HEADS * ROWS * STATE
    return Case("mamba_chunk_scan", {"tokens": tokens}, "bf16", make, load(tokens), flops=flops)


def cases() -> Iterator[Case]:
    for sequences in SEQUENCES:
        yield _next(sequences)
    for tokens in PROMPTS:
        yield _prompt(tokens)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "selective_scan", cases))
