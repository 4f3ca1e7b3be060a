"""Choice of tokens and acceptance of drafted ones against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, main

ops = torch.ops.vllm_kernels

VOCABULARY = 128256
ROWS = (1, 8, 64)
DRAFTED = 4


def _greedy(rows: int) -> Case:
    def make() -> dict[str, Call]:
        logits = torch.randn(rows, VOCABULARY)

        def torch_argmax(logits: torch.Tensor) -> torch.Tensor:
            return logits.argmax(1)

        return {
            "ours": lambda: ops.greedy_argmax(logits),
            "eager": lambda: torch_argmax(logits),
            "compile": compiled(torch_argmax, logits),
        }

    moved = rows * VOCABULARY * 4
    return Case("greedy_argmax", {"rows": rows}, "f32", make, "decode", bytes_moved=moved)


def _random(rows: int) -> Case:
    """What the engine does without the op: softmax, and a division by exponential noise."""

    def make() -> dict[str, Call]:
        logits, seeds = torch.randn(rows, VOCABULARY), torch.arange(rows)

        def torch_sample(logits: torch.Tensor) -> torch.Tensor:
            noise = torch.empty_like(logits).exponential_()
            return logits.softmax(1).div_(noise).argmax(1)

        return {
            "ours": lambda: ops.fused_gumbel_argmax(logits, seeds),
            "eager": lambda: torch_sample(logits),
            "compile": compiled(torch_sample, logits),
        }

    moved = rows * VOCABULARY * 4
    return Case("gumbel_argmax", {"rows": rows}, "f32", make, "decode", bytes_moved=moved)


def _recovered(requests: int) -> Case:
    tokens = requests * DRAFTED

    def make() -> dict[str, Call]:
        draft_probs = torch.rand(tokens, VOCABULARY).softmax(1)
        target_probs = torch.rand(tokens, VOCABULARY).softmax(1)
        inv_q = torch.empty(requests, VOCABULARY).exponential_().reciprocal()
        draft = torch.randint(VOCABULARY, (tokens,))
        ends = torch.arange(1, requests + 1) * DRAFTED
        out = torch.empty(tokens, dtype=torch.int64)

        def torch_recovered(
            target: torch.Tensor, draft: torch.Tensor, inv_q: torch.Tensor
        ) -> torch.Tensor:
            rest = (target - draft).clamp_min(0.0)
            return (rest * inv_q.repeat_interleave(DRAFTED, 0)).argmax(1)

        arguments = (target_probs, draft_probs, inv_q)
        return {
            "ours": lambda: ops.sample_recovered_tokens_kernel_impl(
                out, ends, draft, draft_probs, target_probs, inv_q, VOCABULARY, False
            ),
            "eager": lambda: torch_recovered(*arguments),
            "compile": compiled(torch_recovered, *arguments),
        }

    moved = tokens * VOCABULARY * 12
    shape = {"requests": requests, "drafted": DRAFTED}
    return Case("sample_recovered", shape, "f32", make, "decode", bytes_moved=moved)


def _accept(requests: int) -> Case:
    """Greedy acceptance, and the requests' values for each of their tokens."""
    tokens = requests * DRAFTED

    def make() -> dict[str, Call]:
        draft = torch.randint(VOCABULARY, (tokens,))
        ends = torch.arange(1, requests + 1) * DRAFTED
        bonus = torch.randint(VOCABULARY, (requests, 1))
        out = torch.full((requests, DRAFTED + 1), -1)

        def torch_accept(
            draft: torch.Tensor, target: torch.Tensor, bonus: torch.Tensor
        ) -> torch.Tensor:
            right = (draft == target).view(requests, DRAFTED).long().cumprod(1)
            kept = torch.cat((right.new_ones(requests, 1), right), 1).bool()
            found = torch.cat((target.view(requests, DRAFTED), bonus), 1)
            return torch.where(kept, found, -1)

        return {
            "ours": lambda: ops.rejection_greedy_sample_kernel_impl(
                out, ends, draft, draft, bonus, None, DRAFTED
            ),
            "eager": lambda: torch_accept(draft, draft, bonus),
            "compile": compiled(torch_accept, draft, draft, bonus),
        }

    shape = {"requests": requests, "drafted": DRAFTED}
    return Case("rejection_greedy", shape, "i64", make, "decode")


def cases() -> Iterator[Case]:
    for rows in ROWS:
        yield _greedy(rows)
        yield _random(rows)
    for requests in ROWS[:2]:
        yield _recovered(requests)
        yield _accept(requests)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "sampling", cases))
