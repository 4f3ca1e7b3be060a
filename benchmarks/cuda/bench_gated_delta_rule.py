"""Drafted tokens of gated delta nets on a GPU, against the recurrence in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

KEY_HEADS, HEADS, SIZE = 16, 32, 128  # of Qwen3.5 35B-A3B
TOKENS = 4  # of each request: three drafted, and one
REQUESTS = [1, 8, 64, 256]


def steps(
    qkv: torch.Tensor, a: torch.Tensor, b: torch.Tensor, rate: torch.Tensor, state: torch.Tensor
) -> torch.Tensor:
    """All requests at once, token after token; states are written in place."""
    q, k, v = qkv.float().split([n * SIZE for n in (KEY_HEADS, KEY_HEADS, HEADS)], -1)
    q, k = (
        F.normalize(x.unflatten(-1, (-1, SIZE)), dim=-1).repeat_interleave(HEADS // KEY_HEADS, -2)
        for x in (q, k)
    )
    v, beta = v.unflatten(-1, (-1, SIZE)), b.float().sigmoid()
    decay = (rate * F.softplus(a.float())).exp()
    results = []
    for t in range(TOKENS):
        state *= decay[:, t, :, None, None]
        known = (state @ k[:, t, :, :, None]).squeeze(-1)
        change = (v[:, t] - known) * beta[:, t, :, None]
        state += change[..., None] * k[:, t, :, None]
        results.append((state @ q[:, t, :, :, None]).squeeze(-1))
    return torch.stack(results, 1)


def _case(requests: int) -> Case:
    def make() -> dict[str, Call]:
        tokens, width = requests * TOKENS, (2 * KEY_HEADS + HEADS) * SIZE
        qkv, gate = (
            torch.randn(tokens, n, device="cuda").bfloat16() for n in (width, HEADS * SIZE)
        )
        a, b = torch.randn(2, tokens, HEADS, device="cuda").bfloat16()
        a_log, bias = torch.zeros(2, HEADS, device="cuda")
        weight = torch.ones(SIZE, device="cuda")
        state = torch.randn(requests * TOKENS + 1, HEADS, SIZE, SIZE, device="cuda")
        slots = torch.arange(1, tokens + 1, dtype=torch.int32, device="cuda").view(requests, TOKENS)
        starts = torch.arange(requests + 1, dtype=torch.int32, device="cuda") * TOKENS
        accepted = torch.full((requests,), 2, dtype=torch.int32, device="cuda")
        gates = gate.view(tokens, HEADS, SIZE)
        out = torch.empty_like(gates)
        held = state[1 : requests + 1].clone()
        each = [x.view(requests, TOKENS, -1) for x in (qkv, a, b)]
        return {
            "ours": lambda: ops.fused_gdn_decode_post_conv_mtp(
                qkv, a, b, a_log, bias, slots, starts, accepted, state, gates, weight, out,
                SIZE**-0.5,
            ),
            "eager": lambda: steps(each[0], each[1], each[2], -a_log.exp(), held),
        }  # fmt: skip

    # A state is read, and one written behind each token.
    traffic = requests * HEADS * SIZE * SIZE * 4 * (TOKENS + 1)
    shape = {"requests": requests, "tokens": TOKENS}
    return Case(
        "fused_gdn_decode_post_conv_mtp", shape, "f32", make, load(requests), bytes_moved=traffic
    )


def cases() -> Iterator[Case]:
    for requests in REQUESTS:
        yield _case(requests)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "gated_delta_rule", cases))
