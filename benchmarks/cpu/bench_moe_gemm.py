"""Mixtures of experts against the engine's own fallback: PyTorch, one expert after the other.

`cpu_fused_moe` on packed weights against a loop over the experts with F.linear, which is what the
engine does without the op, eager and compiled. A layer of Qwen3-30B-A3B (128 small experts, 8 a
token) and one of Mixtral 8x7B's shape at half its width (8 large experts, 2 a token). With one
token only the chosen experts' weights are read: the limit is memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


@dataclass(frozen=True)
class Shape:
    name: str
    experts: int
    slots: int
    hidden: int
    inner: int
    tokens: tuple[int, ...]


SHAPES = (
    Shape("qwen3-30b", 128, 8, 2048, 768, (1, 8, 32, 256, 1024)),
    Shape("mixtral/2", 8, 2, 2048, 7168, (1, 8, 32, 256)),
)


def _loop(
    x: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """Tokens sorted by expert, a product for each expert that has any, then the weighted sum."""
    order = ids.view(-1).argsort()
    rows = x[order // ids.shape[1]]
    outputs = []
    start = 0
    for expert, count in enumerate(ids.view(-1).bincount(minlength=w13.shape[0]).tolist()):
        if count:
            gate, up = F.linear(rows[start : start + count], w13[expert]).chunk(2, -1)
            outputs.append(F.linear(F.silu(gate) * up, w2[expert]))
            start += count
    result = torch.empty_like(torch.cat(outputs))
    result[order] = torch.cat(outputs)
    result = result.view(*ids.shape, -1).float().mul_(weights.unsqueeze(-1)).sum(1)
    return result.to(x.dtype)


def _packed(weight: torch.Tensor) -> torch.Tensor:
    packed = torch.empty_like(weight)
    ops.prepack_moe_weight(weight, packed, "vec")
    return packed


def _ours(
    x: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor
) -> Call:
    out = torch.empty_like(x)
    return lambda: ops.cpu_fused_moe(
        out, x, w13, w2, None, None, weights, ids, False, "silu", "vec"
    )


def _cases(shape: Shape, name: str) -> Iterator[Case]:
    dtype = DTYPES[name]
    w13 = torch.randn(shape.experts, 2 * shape.inner, shape.hidden, dtype=dtype) / 32
    w2 = torch.randn(shape.experts, shape.hidden, shape.inner, dtype=dtype) / 32
    packed = _packed(w13), _packed(w2)
    for tokens in shape.tokens:
        x = torch.randn(tokens, shape.hidden, dtype=dtype)
        weights, ids = torch.rand(tokens, shape.experts).topk(shape.slots)
        ids = ids.to(torch.int32)
        arguments = (x, w13, w2, weights, ids)
        ours = _ours(x, *packed, weights, ids)

        def make(
            ours: Call = ours, arguments: tuple[torch.Tensor, ...] = arguments
        ) -> dict[str, Call]:
            return {
                "ours": ours,
                "eager": lambda: _loop(*arguments),
                "compile": compiled(_loop, *arguments),
            }

        expert_bytes = (w13.nbytes + w2.nbytes) // shape.experts
        flops = 6 * tokens * shape.slots * shape.hidden * shape.inner
        yield Case(
            "fused_moe",
            {"tokens": tokens, "slots": shape.slots, "experts": shape.experts},
            name,
            make,
            load(tokens),
            variant=shape.name,
            bytes_moved=len(ids.unique()) * expert_bytes + 2 * x.nbytes,
            flops=flops if load(tokens) == "prefill" else None,
        )


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        for name in DTYPES:
            # The larger experts in float32 would need 3 GiB twice.
            if name == "bf16" or shape.experts > 8:
                yield from _cases(shape, name)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "moe_gemm", cases))
