"""Attention on a GPU: decode against copy bandwidth, prefill against PyTorch's SDPA backends.

Decode is bound by reading keys and values once: the traffic is their bytes. Prefill is bound by
arithmetic: 4 x head_size operations a visible query-key pair and head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, main, offered

ops = torch.ops.vllm_kernels

CACHES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
# batch, keys, heads, kv_heads, head_size, block_size
DECODES = (
    (64, 8192, 32, 8, 128, 16),
    (64, 8192, 32, 8, 128, 64),
    (64, 8192, 8, 1, 128, 16),
    (64, 8192, 64, 8, 64, 16),
    (16, 8192, 16, 16, 128, 16),
    (8, 8192, 32, 8, 128, 16),
    (1, 32768, 32, 8, 128, 16),
    (1, 131072, 8, 1, 128, 16),
    (1, 2048, 32, 8, 128, 16),
    (64, 4096, 16, 8, 256, 16),
)
SPLITS = (1, 2, 4, 8, 16, 64, 128)
# tokens, requests, heads, kv_heads, head_size, causal
PREFILLS = (
    (16384, 1, 16, 16, 128, True),
    (16384, 1, 16, 16, 128, False),
    (16384, 1, 32, 8, 128, True),
    (4096, 4, 16, 16, 128, True),
    (16384, 1, 32, 32, 64, True),
    (16384, 1, 8, 8, 256, True),
    (2048, 8, 32, 8, 128, True),
)
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
}


def paged(
    batch: int, keys: int, kv_heads: int, head_size: int, block: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random caches of keys and values whose pages are in random order, the table and lengths."""
    blocks = batch * -(-keys // block)
    shape = (blocks, block, kv_heads, head_size)
    key, value = (
        torch.randn(shape, dtype=torch.bfloat16, device="cuda").to(dtype) for _ in range(2)
    )
    table = torch.randperm(blocks, device="cuda").int().view(batch, -1)
    return key, value, table, torch.full((batch,), keys, dtype=torch.int32, device="cuda")


def _decode(
    batch: int, keys: int, heads: int, kv_heads: int, head_size: int, block: int, cache: str
) -> Case:
    dtype = CACHES[cache]

    def make() -> dict[str, Call]:
        query = torch.randn(batch, heads, head_size, dtype=torch.bfloat16, device="cuda")
        key, value, table, lengths = paged(batch, keys, kv_heads, head_size, block, dtype)
        starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
        tensors = (torch.empty_like(query), query, key, value, starts, lengths, None, table)
        call = partial(ops.varlen_attention, *tensors, 1, keys, head_size**-0.5)
        fixed = {f"ours, splits: {splits}": partial(call, num_splits=splits) for splits in SPLITS}
        return {"ours": partial(call, num_splits=0), **fixed}

    return Case(
        "decode",
        {
            "batch": batch,
            "keys": keys,
            "heads": heads,
            "kv_heads": kv_heads,
            "head": head_size,
            "block": block,
        },
        cache,
        make,
        "decode",
        bytes_moved=2 * batch * keys * kv_heads * head_size * dtype.itemsize,
    )


def _sdpa(
    backend: SDPBackend, causal: bool, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> Call:
    grouped = key.shape[1] != query.shape[1]

    def call() -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=causal, enable_gqa=grouped
            )

    return call


def _prefill(
    tokens: int, requests: int, heads: int, kv_heads: int, size: int, causal: bool
) -> Case:
    """The op over packed keys, and over caches of blocks of 16."""
    total = tokens * requests

    def make() -> dict[str, Call]:
        query, key, value = (
            torch.randn(total, n, size, dtype=torch.bfloat16, device="cuda")
            for n in (heads, kv_heads, kv_heads)
        )
        out = torch.empty_like(query)
        starts = torch.arange(0, total + 1, tokens, dtype=torch.int32, device="cuda")
        common = (tokens, tokens, size**-0.5, causal)

        def over(cache: str) -> Call:
            keys, values, table, lengths = paged(
                requests, tokens, kv_heads, size, 16, CACHES[cache]
            )
            tensors = (out, query, keys, values, starts, lengths, None, table)
            return lambda: ops.varlen_attention(*tensors, *common)

        views = [
            x.view(requests, tokens, -1, size).transpose(1, 2).contiguous()
            for x in (query, key, value)
        ]
        peers = {name: _sdpa(backend, causal, *views) for name, backend in BACKENDS.items()}
        return {
            "ours": lambda: ops.varlen_attention(
                out, query, key, value, starts, None, starts, None, *common
            ),
            "ours, paged": over("bf16"),
            "ours, paged fp8": over("fp8"),
            **offered(peers),
        }

    pairs = tokens * (tokens + 1) // 2 if causal else tokens * tokens
    return Case(
        "prefill",
        {
            "requests": requests,
            "tokens": tokens,
            "heads": heads,
            "kv_heads": kv_heads,
            "head": size,
        },
        "bf16",
        make,
        "prefill",
        variant="causal" if causal else "full",
        flops=4 * size * heads * requests * pairs,
    )


def cases() -> Iterator[Case]:
    for decode in DECODES:
        for cache in CACHES:
            yield _decode(*decode, cache)
    for prefill in PREFILLS:
        yield _prefill(*prefill)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "attention", cases))
