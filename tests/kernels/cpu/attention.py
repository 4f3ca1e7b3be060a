"""Batches for cpu_attention_with_kv_cache, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_kernels.reference.attention import cpu as reference

ops = torch.ops.vllm_kernels

# Of the largest value (about 1): products of T, probabilities rounded to bfloat16 in the tiers
# with bfloat16 products, and the rounding of the output.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


FLOAT8 = {
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Problem:
    """One batch: `lengths` holds (query tokens, keys) of each request."""

    lengths: tuple[tuple[int, int], ...] = ((1, 100),)
    heads: int = 8
    kv_heads: int = 2
    head_size: int = 64
    block_size: int = 16
    causal: bool = True
    window: int = -1
    softcap: float = 0.0
    alibi: bool = False
    sinks: torch.dtype | None = None
    dynamic_causal: bool = False
    scale: float | None = None
    poison: float = float("nan")  # in every cache slot that no query may see
    cache: str = "auto"  # kv_cache_dtype


@dataclass
class Batch:
    """The op's arguments for a Problem."""

    problem: Problem
    args: dict[str, Any] = field(default_factory=dict)

    def run(self, **changes: Any) -> torch.Tensor:
        ops.cpu_attention_with_kv_cache(**{**self.args, **changes})
        output = self.args["output"]
        assert isinstance(output, torch.Tensor)
        return output

    def expected(self) -> torch.Tensor:
        wide = {
            name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in self.args.items()
        }
        if self.args["key_cache"].dtype == torch.float8_e4m3fn:
            wide |= {name: self.args[name] for name in ("key_cache", "value_cache")}
        wide["output"] = torch.zeros(self.args["output"].shape, dtype=torch.float64)
        reference.cpu_attention_with_kv_cache(**wide)
        assert isinstance(wide["output"], torch.Tensor)
        return wide["output"]

    def check(self) -> None:
        actual, expected = self.run().double(), self.expected()
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=TOLERANCE[self.args["query"].dtype]
        )


def make(problem: Problem, dtype: torch.dtype) -> Batch:
    """Caches as the engine's: K and V are halves of one buffer; pages in random order."""
    p = problem
    requests = len(p.lengths)
    pages = [-(-keys // p.block_size) for _, keys in p.lengths]
    blocks = sum(pages) + 3
    shape = (blocks, p.kv_heads, 2, p.block_size, p.head_size)
    both = torch.full(shape, p.poison, dtype=FLOAT8.get(p.cache, dtype))
    order = torch.randperm(blocks)[: sum(pages)].split(pages)
    table = torch.full((requests, max(pages, default=0) + 1), -1, dtype=torch.int32)
    for row, (mine, (_, keys)) in enumerate(zip(order, p.lengths, strict=True)):
        table[row, : len(mine)] = mine
        for page, block in enumerate(mine.tolist()):
            used = min(p.block_size, keys - page * p.block_size)
            drawn = torch.randn(p.kv_heads, 2, used, p.head_size)
            both[block, :, :, :used] = drawn.to(both.dtype)
    tokens = sum(queries for queries, _ in p.lengths)
    # A slice of a fused q/k/v projection: neither contiguous nor aligned.
    fused = torch.randn(tokens, p.heads + 1, p.head_size).to(dtype)
    output = torch.full((tokens, p.heads, p.head_size + 8), float("nan"), dtype=dtype)
    starts = torch.tensor([0, *(queries for queries, _ in p.lengths)], dtype=torch.int32)
    args = {
        "query": fused[:, 1:],
        "key_cache": both[:, :, 0],
        "value_cache": both[:, :, 1],
        "output": output[..., : p.head_size],
        "query_start_loc": starts.cumsum(0, dtype=torch.int32),
        "seq_lens": torch.tensor([keys for _, keys in p.lengths], dtype=torch.int32),
        "scale": p.head_size**-0.5 if p.scale is None else p.scale,
        "causal": p.causal,
        "alibi_slopes": -torch.rand(p.heads) * 0.2 if p.alibi else None,
        "sliding_window_size": p.window,
        "block_table": table,
        "softcap": p.softcap,
        "scheduler_metadata": torch.zeros(16, dtype=torch.int8),
        "s_aux": torch.randn(p.heads).to(p.sinks) if p.sinks else None,
        "dynamic_causal": torch.arange(requests) % 2 == 0 if p.dynamic_causal else None,
    }
    if p.cache != "auto":
        bytes_ = {name: args[name].view(torch.uint8) for name in ("key_cache", "value_cache")}
        args |= {**bytes_, "k_scale": 0.75, "v_scale": 1.5, "kv_cache_dtype": p.cache}
    return Batch(problem, args)


DECODE = ((1, 1), (1, 15), (1, 16), (1, 17), (1, 333))
PREFILL = ((5, 5), (33, 33), (70, 200), (16, 300))
MIXED = ((1, 70), (40, 40), (0, 0), (3, 129), (1, 1), (65, 260))
