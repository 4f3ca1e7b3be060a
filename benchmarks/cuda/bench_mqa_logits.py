"""Logits of the indexer of sparse attention on a GPU, against PyTorch.

python -m benchmarks.cuda.bench_mqa_logits
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, main, offered

ops = torch.ops.vllm_kernels

HEADS, DEPTH, SLOTS = 64, 128, 64
# Queries, keys; the last query sees all keys.
PREFILL = [(2048, 4096), (4096, 32768), (2048, 131072), (256, 131072)]
# Requests, queries of each, keys of each.
DECODE = [(1, 1, 32768), (32, 1, 8192), (128, 1, 8192), (64, 2, 32768), (64, 4, 8192)]


def float8(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(torch.float8_e4m3fn)


def prefill(rows: int, keys: int) -> dict[str, Call]:
    query, values = float8(rows, HEADS, DEPTH), float8(keys, DEPTH)
    scales = torch.rand(keys, device="cuda")
    weights = torch.randn(rows, HEADS, device="cuda")
    starts = torch.zeros(rows, dtype=torch.int32, device="cuda")
    ends = torch.arange(rows, device="cuda").int() + 1 + keys - rows
    logits = torch.empty(rows, keys, device="cuda")
    peers: dict[str, Call] = {}
    if rows * keys <= 1 << 23:
        halves = query.bfloat16().flatten(0, 1), values.bfloat16()

        def eager() -> torch.Tensor:
            scores = (halves[0] @ halves[1].T).view(rows, HEADS, keys).relu_()
            return torch.einsum("mhn,mh->mn", scores, weights.bfloat16()) * scales

        peers["eager"] = eager
    ours = (logits, query, values, scales, weights, starts, ends, False, 0)
    return {"ours": lambda: ops.mqa_logits(*ours), **offered(peers)}


def decode(batch: int, queries: int, keys: int) -> dict[str, Call]:
    pages = batch * keys // SLOTS
    query = float8(batch * queries, HEADS, DEPTH)
    cache = float8(pages, SLOTS, DEPTH + 4).view(torch.uint8)
    cache.flatten(1)[:, SLOTS * DEPTH :].view(torch.float32).fill_(1.0)
    weights = torch.randn(batch * queries, HEADS, device="cuda")
    lengths = torch.full((batch, queries), keys, dtype=torch.int32, device="cuda")
    table = torch.randperm(pages, device="cuda").int().view(batch, -1)
    parts = torch.cuda.get_device_properties().multi_processor_count
    schedule = torch.empty(parts + 1, 2, dtype=torch.int32, device="cuda")
    ops.paged_mqa_logits_schedule(schedule, lengths)
    logits = torch.empty(batch * queries, keys, device="cuda")
    ours = (logits, query, cache, weights, lengths, table, schedule)
    return {"ours": lambda: ops.paged_mqa_logits(*ours)}


def cases() -> Iterator[Case]:
    for rows, keys in PREFILL:
        pairs = rows * (2 * keys - rows + 1) // 2
        yield Case(
            "mqa_logits",
            {"rows": rows, "keys": keys},
            "fp8",
            functools.partial(prefill, rows, keys),
            "prefill",
            bytes_moved=rows * HEADS * (DEPTH + 4) + keys * (DEPTH + 4) + 4 * pairs,
            flops=2 * pairs * HEADS * DEPTH,
        )
    for batch, queries, keys in DECODE:
        rows = batch * queries
        yield Case(
            "paged_mqa_logits",
            {"requests": batch, "queries": queries, "keys": keys},
            "fp8",
            functools.partial(decode, batch, queries, keys),
            "decode",
            bytes_moved=batch * keys * (DEPTH + 4) + rows * (HEADS * (DEPTH + 4) + 4 * keys),
            flops=2 * rows * keys * HEADS * DEPTH,
        )


if __name__ == "__main__":
    raise SystemExit(main("cuda", "mqa_logits", cases))
