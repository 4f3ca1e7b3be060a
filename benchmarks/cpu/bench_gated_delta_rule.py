"""Gated delta nets against PyTorch, eager and compiled.

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

# Of Qwen3-Next: 16 heads of the keys, 32 of the values, 128 wide.
KEY_HEADS, HEADS, SIZE = 16, 32, 128
SEQUENCES = (1, 8)
PROMPTS = (128, 1024)


def step(
    state: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
) -> torch.Tensor:
    """One token of [sequences, heads, ...]; the state is replaced."""
    q, k = (F.normalize(x.float(), dim=-1).repeat_interleave(HEADS // KEY_HEADS, 1) for x in (q, k))
    faded = state * g.exp()[..., None, None]
    missing = (v.float() - (faded * k[..., None]).sum(-2)) * beta[..., None]
    state.copy_(faded + k[..., None] * missing[..., None, :])
    return (state * q[..., None]).sum(-2) * SIZE**-0.5


def prompt(state: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
    """:func:`step` of [tokens, heads, ...], token after token."""
    return torch.cat([step(state, *(x[t : t + 1] for x in rows)) for t in range(len(rows[0]))])


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    return x.float().repeat_interleave(HEADS // x.shape[1], 1).transpose(0, 1)


def chunk(state: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
    """The same for some tokens at once, whose corrections of each other are a triangular system."""
    *keyed, v, g, beta = rows
    q, k = (_heads_first(F.normalize(x.float(), dim=-1)) for x in keyed)
    lower = torch.ones(len(g), len(g), dtype=torch.bool).tril()
    logs, rates = g.cumsum(0).t(), beta.t()[..., None]
    decay = (logs[:, :, None] - logs[:, None]).masked_fill(~lower, -torch.inf).exp()
    system = (rates * k @ k.transpose(1, 2) * decay).tril(-1)
    faded = logs.exp()[..., None]
    missing = rates * (_heads_first(v) - faded * (k @ state[0]))
    new = torch.linalg.solve_triangular(system, missing, upper=False, unitriangular=True)
    inside = (q @ k.transpose(1, 2) * decay) @ new
    out = (faded * (q @ state[0]) + inside) * SIZE**-0.5
    left = (logs[:, -1:] - logs).exp()[..., None]
    state.copy_(state * faded[:, -1:] + (k * left).transpose(1, 2) @ new)
    return out.transpose(0, 1)


def _inputs(tokens: int) -> tuple[torch.Tensor, ...]:
    q, k = torch.randn(2, tokens, KEY_HEADS, SIZE).bfloat16()
    return q, k, torch.randn(tokens, HEADS, SIZE).bfloat16()


def _next(sequences: int) -> Case:
    def make() -> dict[str, Call]:
        q, k, v = _inputs(sequences)
        a, b = torch.randn(2, sequences, HEADS).bfloat16()
        logs, bias = torch.zeros(HEADS), torch.zeros(HEADS)
        states = torch.zeros(sequences, HEADS, SIZE, SIZE)
        other = states.clone()
        slots = torch.arange(sequences, dtype=torch.int32)
        starts = torch.arange(sequences + 1, dtype=torch.int32)
        g, beta = -F.softplus(a.float()), b.float().sigmoid()
        return {
            "ours": lambda: ops.fused_sigmoid_gating_delta_rule_update_cpu(
                logs, bias, q[None], k[None], v[None], a, b, states, slots, starts, True
            ),
            "eager": lambda: step(other, q, k, v, g, beta),
            "compile": compiled(step, other, q, k, v, g, beta),
        }

    moved = 2 * 4 * sequences * HEADS * SIZE * SIZE
    shape = {"tokens": sequences}
    op = "fused_sigmoid_gating_delta_rule_update_cpu"
    return Case(op, shape, "bf16", make, load(sequences), bytes_moved=moved)


def _prompt(tokens: int) -> Case:
    def make() -> dict[str, Call]:
        q, k, v = _inputs(tokens)
        g, beta = -torch.rand(tokens, HEADS), torch.rand(tokens, HEADS)
        states = torch.zeros(1, HEADS, SIZE, SIZE)
        other = states.clone()
        starts, slots = torch.tensor([0, tokens]).int(), torch.zeros(1, dtype=torch.int32)
        fast = torch.compile(chunk, dynamic=False)

        def by_token() -> object:
            return prompt(other, q, k, v, g, beta)

        def by_fast_chunks() -> object:
            return chunked(partial(fast, other), q, k, v, g, beta)

        return {
            "ours": lambda: ops.chunk_gated_delta_rule_cpu(
                q[None], k[None], v[None], g[None], beta[None], states, False, starts, False, True,
                slots,
            ),
            "eager": by_token if tokens <= CHUNKS_ONLY else left_out,
            "chunked": lambda: chunked(partial(chunk, other), q, k, v, g, beta),
            "chunked, compile": by_fast_chunks if Compilation.wanted else left_out,
        }  # fmt: skip

    moved = 2 * tokens * (2 * KEY_HEADS + 2 * HEADS) * SIZE
    return Case(
        "chunk_gated_delta_rule_cpu", {"tokens": tokens}, "bf16", make, load(tokens),
        bytes_moved=moved,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for sequences in SEQUENCES:
        yield _next(sequences)
    for tokens in PROMPTS:
        yield _prompt(tokens)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "gated_delta_rule", cases))
