"""Choice of experts against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, main

ops = torch.ops.vllm_kernels

EXPERTS, TOPK, FACTOR = 256, 6, 1.5  # DeepSeek-V4's
TOKENS = (1, 16, 256, 2048)


def _biased(tokens: int) -> Case:
    def make() -> dict[str, Call]:
        logits, bias = torch.randn(tokens, EXPERTS), torch.randn(EXPERTS)

        def torch_route(logits: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
            scores = torch.nn.functional.softplus(logits).sqrt()
            ids = (scores + bias).topk(TOPK, dim=-1, sorted=False).indices
            weights = scores.gather(1, ids)
            return weights / weights.sum(-1, keepdim=True) * FACTOR, ids.int()

        return {
            "ours": lambda: ops.biased_topk_cpu(
                logits, logits, bias, TOPK, True, "sqrtsoftplus", 0, FACTOR, True
            ),
            "eager": lambda: torch_route(logits, bias),
            "compile": compiled(torch_route, logits, bias),
        }

    return Case("biased_topk", {"tokens": tokens, "experts": EXPERTS}, "f32", make, "decode")


def _hash(tokens: int) -> Case:
    def make() -> dict[str, Call]:
        logits = torch.randn(tokens, EXPERTS)
        named = torch.randint(EXPERTS, (tokens, TOPK), dtype=torch.int32)

        def torch_route(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            weights = torch.nn.functional.softplus(logits).sqrt().gather(1, ids.long())
            return weights / weights.sum(-1, keepdim=True) * FACTOR

        return {
            "ours": lambda: ops.hash_topk_cpu(
                logits, named, TOPK, "sqrtsoftplus", 0, EXPERTS, FACTOR
            ),
            "eager": lambda: torch_route(logits, named),
            "compile": compiled(torch_route, logits, named),
        }

    return Case("hash_topk", {"tokens": tokens, "experts": EXPERTS}, "f32", make, "decode")


def cases() -> Iterator[Case]:
    for tokens in TOKENS:
        yield _biased(tokens)
        yield _hash(tokens)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "moe_routing", cases))
