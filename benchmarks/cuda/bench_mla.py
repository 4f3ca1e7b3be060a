"""Multi-head latent attention on a GPU, against PyTorch and, where it is given, FlashMLA.

    FLASHMLA=/path/to/_flashmla_C.abi3.so python -m benchmarks.cuda.bench_mla

takes FlashMLA out of an unpacked wheel of upstream's (``vllm/_flashmla_C.abi3.so``, and
``_flashmla_extension_C.abi3.so`` beside it).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, main, offered
from vllm_kernels.reference.mla import latent_keys

ops = torch.ops.vllm_kernels
if FLASHMLA := os.environ.get("FLASHMLA"):
    torch.ops.load_library(FLASHMLA)
    torch.ops.load_library(FLASHMLA.replace("_flashmla_C", "_flashmla_extension_C"))

HEAD, LATENT, SLOTS = 576, 512, 64
SCALE = 192**-0.5
# Requests, queries of each, heads, selected keys of each query.
DECODE = [
    (batch, queries, heads, 2048)
    for heads in (64, 128)
    for batch, queries in ((1, 1), (8, 1), (32, 1), (128, 1), (64, 2))
]
# Tokens, heads, selected keys.
PREFILL = [(tokens, heads, 2048) for heads in (64, 128) for tokens in (256, 4096)]
# Requests, keys of each, heads.
DENSE = [
    (batch, keys, heads)
    for batch, keys in ((128, 4096), (128, 8192), (32, 8192), (1, 32768), (16, 8192))
    for heads in (16, 64, 128)
]
CACHED = 128 * 1024  # tokens


def quantized_cache(tokens: int) -> torch.Tensor:
    shape = (tokens // SLOTS, SLOTS)
    values = torch.randn(*shape, LATENT, device="cuda").to(torch.float8_e4m3fn)
    scales = torch.rand(*shape, 4, device="cuda") + 0.5
    rope = torch.randn(*shape, HEAD - LATENT, device="cuda", dtype=torch.bfloat16)
    return torch.cat([part.view(torch.uint8) for part in (values, scales, rope)], -1)


def selected(batch: int, queries: int, topk: int) -> torch.Tensor:
    """Distinct keys for each query, as an indexer chooses them: no order."""
    rows = [torch.randperm(CACHED, device="cuda")[:topk] for _ in range(batch * queries)]
    return torch.stack(rows).int().view(batch, queries, topk)


def eager(query: torch.Tensor, cache: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """A gather and two products of bfloat16, without what an op would have to check."""
    keys = latent_keys(cache).bfloat16()[indices.long()]  # [batch, queries, topk, 576]
    weights = (query @ keys.mT * SCALE).softmax(-1)
    return weights @ keys[..., :LATENT]


def tensors(batch: int, queries: int, heads: int, topk: int) -> tuple[torch.Tensor, ...]:
    query = torch.randn(batch, queries, heads, HEAD, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(batch, queries, heads, LATENT, device="cuda", dtype=torch.bfloat16)
    lse = torch.empty(batch, heads, queries, device="cuda")
    return query, out, lse, selected(batch, queries, topk)


def decode(batch: int, queries: int, heads: int, topk: int) -> dict[str, Call]:
    query, out, lse, indices = tensors(batch, queries, heads, topk)
    cache = quantized_cache(CACHED)
    peers: dict[str, Call] = {}
    if batch * queries * topk <= 1 << 16:
        peers["eager"] = lambda: eager(query, cache, indices)
    if FLASHMLA:
        flashmla, keys = torch.ops._flashmla_C.sparse_decode_fwd, cache.unsqueeze(2)
        rest = (None, None, None, LATENT, SCALE, None)
        keys = keys.view(torch.float8_e4m3fn)
        plan = flashmla(query, keys, indices, None, None, None, None, *rest)[2:]
        peers["flashmla"] = lambda: flashmla(query, keys, indices, None, None, *plan, *rest)
    ours = (out, lse, None, query, cache, indices, None, None, SCALE)
    return {"ours": lambda: ops.sparse_mla_attention(*ours), **offered(peers)}


def prefill(tokens: int, heads: int, topk: int) -> dict[str, Call]:
    query, out, lse, indices = tensors(tokens, 1, heads, topk)
    cache = torch.randn(CACHED, 1, HEAD, device="cuda", dtype=torch.bfloat16)
    peers: dict[str, Call] = {}
    if tokens * topk <= 1 << 19:
        peers["eager"] = lambda: eager(query, cache, indices)
    if FLASHMLA:
        packed = (query[:, 0], cache, indices, SCALE, LATENT, None, None, None)
        peers["flashmla"] = lambda: torch.ops._flashmla_C.sparse_prefill_fwd(*packed)
    ours = (out, lse, None, query, cache, indices, None, None, SCALE)
    return {"ours": lambda: ops.sparse_mla_attention(*ours), **offered(peers)}


def dense(batch: int, keys: int, heads: int) -> dict[str, Call]:
    query, out, lse, _ = tensors(batch, 1, heads, 1)
    blocks = batch * keys // SLOTS
    cache = torch.randn(blocks, SLOTS, HEAD, device="cuda", dtype=torch.bfloat16)
    table = torch.randperm(blocks, device="cuda").int().view(batch, -1)
    lengths = torch.full((batch,), keys, dtype=torch.int32, device="cuda")
    schedule = ops.mla_schedule(lengths, 1, heads, keys)
    peers: dict[str, Call] = {}
    if FLASHMLA:
        flashmla = torch.ops._flashmla_C.dense_decode_fwd
        call = (query, cache.unsqueeze(2), LATENT, lengths, table, SCALE, True)
        plan = flashmla(*call, None, None, None)[2:]
        peers["flashmla"] = lambda: flashmla(*call, *plan, None)
    ours = (out, lse, query, cache, table, lengths, schedule, SCALE, True)
    return {"ours": lambda: ops.mla_attention(*ours), **offered(peers)}


def dense_float8(batch: int, keys: int, heads: int) -> dict[str, Call]:
    query, out, lse, _ = tensors(batch, 1, heads, 1)
    query = query.to(torch.float8_e4m3fn)
    blocks = batch * keys // SLOTS
    cache = torch.randn(blocks, SLOTS, HEAD, device="cuda", dtype=torch.bfloat16)
    cache = cache.to(torch.float8_e4m3fn)
    table = torch.randperm(blocks, device="cuda").int().view(batch, -1)
    lengths = torch.full((batch,), keys, dtype=torch.int32, device="cuda")
    schedule = ops.mla_schedule(lengths, 1, heads, keys)
    one = torch.ones(1, device="cuda")
    peers: dict[str, Call] = {}
    if FLASHMLA:
        space = torch.ops._flashmla_extension_C
        plan = space.get_mla_decoding_metadata_dense_fp8(lengths, heads, 1)
        call = (query, cache.unsqueeze(2), LATENT, lengths, table, SCALE, True, *plan, one, one)
        peers["flashmla"] = lambda: space.fwd_kvcache_mla_fp8(*call)
    ours = (out, lse, query, cache, table, lengths, schedule, SCALE, True, one, one)
    return {"ours": lambda: ops.mla_attention(*ours), **offered(peers)}


def dense_case(batch: int, keys: int, heads: int, float8: bool) -> Case:
    size = 1 if float8 else 2
    return Case(
        "decode",
        {"requests": batch, "keys": keys, "heads": heads},
        "fp8" if float8 else "bf16",
        functools.partial(dense_float8 if float8 else dense, batch, keys, heads),
        "decode",
        bytes_moved=batch * (keys * HEAD * size + heads * (HEAD * size + 2 * LATENT)),
        flops=2 * batch * heads * keys * (HEAD + LATENT),
    )


def case(
    op: str, batch: int, queries: int, heads: int, topk: int, key_bytes: int, dtype: str
) -> Case:
    rows = batch * queries * heads
    return Case(
        op,
        {"requests": batch, "queries": queries, "heads": heads, "topk": topk},
        dtype,
        functools.partial(decode, batch, queries, heads, topk)
        if op == "sparse_decode"
        else functools.partial(prefill, batch, heads, topk),
        op.removeprefix("sparse_"),
        bytes_moved=batch * queries * topk * key_bytes + rows * 2 * (HEAD + LATENT),
        flops=2 * rows * topk * (HEAD + LATENT),
    )


def cases() -> Iterator[Case]:
    for float8 in (False, True):
        for batch, keys, heads in DENSE:
            yield dense_case(batch, keys, heads, float8)
    for batch, queries, heads, topk in DECODE:
        yield case("sparse_decode", batch, queries, heads, topk, 656, "fp8")
    for tokens, heads, topk in PREFILL:
        yield case("sparse_prefill", tokens, 1, heads, topk, 2 * HEAD, "bf16")


if __name__ == "__main__":
    raise SystemExit(main("cuda", "mla", cases))
