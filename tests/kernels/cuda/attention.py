"""Batches for varlen_attention, and what it should make of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from vllm_kernels.reference.attention import cuda as reference

ops = torch.ops.vllm_kernels
FP8 = torch.float8_e4m3fn

# Of the largest value (about 1): probabilities and output are rounded to T.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
LSE_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Problem:
    """One batch: ``lengths`` holds (query tokens, keys) of each request."""

    lengths: tuple[tuple[int, int], ...] = ((1, 100),)
    dtype: torch.dtype = torch.bfloat16
    cache: torch.dtype | None = None
    heads: int = 8
    kv_heads: int = 2
    head_size: int = 128
    value_head_size: int | None = None
    block_size: int = 16  # 0: packed keys
    causal: bool = True
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: int = 0  # dimensions of the slopes
    sinks: torch.dtype | None = None
    dynamic_causal: bool = False
    scales: str = "none"  # "one" value or one per "head"
    splits: int = 0
    max_query_len: int | None = None
    max_seq_len: int | None = None


@dataclass
class Batch:
    """The op's arguments for a Problem."""

    problem: Problem
    args: dict[str, Any] = field(default_factory=dict)

    def run(self, **changes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        args = {**self.args, **changes}
        args["out"].fill_(float("nan"))
        args["softmax_lse"].fill_(float("nan"))
        ops.varlen_attention(**args)
        return args["out"], args["softmax_lse"]

    def expected(self) -> tuple[torch.Tensor, torch.Tensor]:
        def wide(value: Any) -> Any:
            if torch.is_tensor(value) and value.dtype in (
                torch.float32,
                torch.bfloat16,
                torch.float16,
            ):
                return value.double()
            return value

        args = {name: wide(value) for name, value in self.args.items()}
        args["out"] = torch.zeros(self.args["out"].shape, dtype=torch.float64, device="cuda")
        args["softmax_lse"] = torch.zeros_like(self.args["softmax_lse"], dtype=torch.float64)
        reference.varlen_attention(**args)
        return args["out"], args["softmax_lse"]

    def check(self) -> None:
        (out, lse), (want, want_lse) = self.run(), self.expected()
        assert self.problem.dtype == out.dtype
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        atol = TOLERANCE[out.dtype] * scale
        torch.testing.assert_close(out.double(), want, rtol=0, atol=atol)
        torch.testing.assert_close(
            lse.double(),
            want_lse,
            rtol=1e-4,
            atol=LSE_TOLERANCE * (4 if self.args["softcap"] else 1),
        )


def _cache(problem: Problem, pages: list[int], keys: int, size: int) -> torch.Tensor:
    """Poisoned everywhere: NaN in float8 is 0x7f."""
    p = problem
    dtype = p.cache or p.dtype
    shape = (
        (sum(pages) + 3, p.block_size, p.kv_heads, size)
        if p.block_size
        else (keys, p.kv_heads, size)
    )
    if dtype in (FP8, torch.uint8):
        return torch.full(shape, 0x7F, dtype=torch.uint8, device="cuda").view(dtype)
    return torch.full(shape, float("nan"), dtype=dtype, device="cuda")


def _fill(cache: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    new = torch.randn((len(rows), *cache.shape[-2:]), device="cuda")
    if cache.dtype in (FP8, torch.uint8):
        flat = cache.view(torch.uint8).flatten(0, cache.dim() - 3)
        flat[rows] = new.to(FP8).view(torch.uint8)
        return flat.view(cache.dtype).view(cache.shape)
    flat = cache.flatten(0, cache.dim() - 3)
    flat[rows] = new.to(cache.dtype)
    return flat.view(cache.shape)


def _visible(p: Problem, queries: int, keys: int, causal: bool) -> tuple[int, int]:
    """Keys [begin, end) that some query of the request sees."""
    left, right = p.window
    if causal:
        right = 0 if right < 0 else min(right, 0)
    begin = 0 if left < 0 else max(0, keys - queries - left)
    end = keys if right < 0 else min(keys, keys + right)
    return min(begin, end), end


def make(p: Problem) -> Batch:
    """Pages in random order; what no query may see is poisoned, its table entries too."""
    requests = len(p.lengths)
    size, value_size = p.head_size, p.value_head_size or p.head_size
    block = p.block_size or 1
    pages = [-(-keys // block) if p.block_size else 0 for _, keys in p.lengths]
    total = sum(keys for _, keys in p.lengths)
    key, value = _cache(p, pages, total, size), _cache(p, pages, total, value_size)
    dynamic = torch.tensor([i % 2 == 0 for i in range(requests)], device="cuda")
    table = torch.full((requests, max(pages, default=0) + 2), -1, dtype=torch.int32, device="cuda")
    order = torch.randperm(sum(pages) + 3, device="cuda")[: sum(pages)]
    first_page, first_key = 0, 0
    for row, (queries, keys) in enumerate(p.lengths):
        causal = bool(dynamic[row]) if p.dynamic_causal else p.causal
        begin, end = _visible(p, queries, keys, causal)
        positions = torch.arange(begin, end, device="cuda") if queries else None
        if p.block_size:
            mine = order[first_page : first_page + pages[row]]
            first_page += pages[row]
            if positions is not None and begin < end:
                visible = torch.arange(begin // block, -(-end // block), device="cuda")
                table[row, visible] = mine[visible].int()
                rows = mine[positions // block] * block + positions % block
                key, value = _fill(key, rows), _fill(value, rows)
        elif positions is not None:
            key, value = _fill(key, first_key + positions), _fill(value, first_key + positions)
        first_key += keys
    tokens = sum(queries for queries, _ in p.lengths)
    query_lens = torch.tensor([0] + [queries for queries, _ in p.lengths]).cumsum(0)
    key_lens = torch.tensor([0] + [keys for _, keys in p.lengths]).cumsum(0)
    scales: dict[str, torch.Tensor | None] = {"k_scale": None, "v_scale": None}
    if p.scales != "none":
        for name in scales:
            shape = (1,) if p.scales == "one" else (1, p.kv_heads)
            scale = torch.rand(shape, device="cuda") + 0.5
            scales[name] = scale if p.scales == "one" else scale.expand(requests, p.kv_heads)
    slopes = torch.rand(*((requests,) * (p.alibi - 1)), p.heads, device="cuda") * 0.1
    return Batch(
        p,
        {
            "out": torch.empty(tokens, p.heads, value_size, dtype=p.dtype, device="cuda"),
            "query": torch.randn(tokens, p.heads, size, device="cuda").to(p.dtype),
            "key": key,
            "value": value,
            "query_start_loc": query_lens.to("cuda", torch.int32),
            "seq_lens": key_lens.diff().to("cuda", torch.int32) if p.block_size else None,
            "key_start_loc": None if p.block_size else key_lens.to("cuda", torch.int32),
            "block_table": table if p.block_size else None,
            "max_query_len": p.max_query_len or max((q for q, _ in p.lengths), default=0),
            "max_seq_len": p.max_seq_len or max((k for _, k in p.lengths), default=0),
            "scale": size**-0.5,
            "causal": p.causal,
            "window_left": p.window[0],
            "window_right": p.window[1],
            "softcap": p.softcap,
            "alibi_slopes": slopes if p.alibi else None,
            "sinks": torch.randn(p.heads, device="cuda").to(p.sinks) if p.sinks else None,
            **scales,
            "softmax_lse": torch.empty(p.heads, tokens, device="cuda"),
            "dynamic_causal": dynamic if p.dynamic_causal else None,
            "num_splits": p.splits,
        },
    )
