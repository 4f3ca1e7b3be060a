"""The selective scan on a GPU against the recurrence in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

ROWS, STATE = 8192, 16  # of Falcon-Mamba 7B
PROMPTS = [(1, 512), (1, 4096), (8, 1024)]


def prompt(
    u: torch.Tensor, delta: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    """Token after token, as the engine's reference for devices without the op."""
    state, results = torch.zeros_like(a), []
    step = F.softplus(delta.float())
    for t in range(u.shape[1]):
        one = step[:, t, None]
        state = state * (one * a).exp() + one * u[:, t, None].float() * b[0, :, t].float()
        results.append(state @ c[0, :, t].float())
    return torch.stack(results, 1)


def _case(sequences: int, tokens: int) -> Case:
    total = sequences * tokens

    def make() -> dict[str, Call]:
        u, delta, z = torch.randn(3, ROWS, total, device="cuda").bfloat16()
        b, c = torch.randn(2, 1, STATE, total, device="cuda").bfloat16()
        a = -torch.rand(ROWS, STATE, device="cuda")
        states = torch.zeros(sequences, ROWS, STATE, device="cuda")
        starts = torch.arange(sequences + 1, device="cuda", dtype=torch.int32) * tokens
        calls: dict[str, Call] = {
            "ours": lambda: ops.selective_scan_fwd(
                u, delta, a, b, c, None, z, None, True, starts, None, None, states, -1, 1024,
                *[None] * 5,
            )
        }  # fmt: skip
        if total <= 512:
            calls["eager"] = lambda: prompt(u, delta, a, b, c)
        return calls

    shape = {"sequences": sequences, "tokens": tokens}
    # u, delta and z are read, the latter two written.
    return Case(
        "selective_scan_fwd", shape, "bf16", make, load(tokens), bytes_moved=10 * ROWS * total,
        flops=6 * ROWS * STATE * total,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for sequences, tokens in PROMPTS:
        yield _case(sequences, tokens)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "selective_scan", cases))
