"""Decode on caches that are small: floats of 8 bits, and latent rows that all heads share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, main

ops = torch.ops.vllm_kernels
HEADS, KV_HEADS, HEAD_SIZE, BLOCK = 32, 8, 128, 128
LATENT_HEADS, LATENT, VALUES, LATENT_BLOCK = 16, 576, 512, 16
BATCHES = [(batch, context) for batch in (1, 8) for context in (2048, 8192)]


def _table(batch: int, pages: int) -> torch.Tensor:
    return torch.randperm(batch * pages).to(torch.int32).view(batch, pages)


def _float8(batch: int, context: int) -> Case:
    """The same numbers in 8 bits, in bfloat16, and widened for PyTorch in each call."""

    def make() -> dict[str, Call]:
        pages = context // BLOCK
        both = torch.randn(batch * pages, KV_HEADS, 2, BLOCK, HEAD_SIZE).to(torch.float8_e4m3fn)
        codes, plain = both.view(torch.uint8), both.bfloat16()
        query = torch.randn(batch, HEADS, HEAD_SIZE, dtype=torch.bfloat16)
        table = _table(batch, pages)
        starts = torch.arange(batch + 1, dtype=torch.int32)
        lengths = torch.full((batch,), context, dtype=torch.int32)
        plan = torch.zeros(16, dtype=torch.int8)
        out = torch.empty_like(query)

        def ours(cache: torch.Tensor, kind: str) -> torch.Tensor:
            ops.cpu_attention_with_kv_cache(
                query, cache[:, :, 0], cache[:, :, 1], out, starts, lengths, HEAD_SIZE**-0.5, True,
                None, -1, table, 0.0, plan, None, None, 1.0, 1.0, kind,
            )  # fmt: skip
            return out

        def eager() -> torch.Tensor:
            pages_of = both[table.flatten().long()].bfloat16()
            split = pages_of.view(batch, pages, KV_HEADS, 2, BLOCK, HEAD_SIZE)
            keys, values = split.permute(3, 0, 2, 1, 4, 5).flatten(3, 4)
            return sdpa(query.unsqueeze(2), keys, values, enable_gqa=True).squeeze(2)

        expected = eager()
        for found in (ours(codes, "fp8_e4m3").clone(), ours(plain, "auto")):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
        return {
            "ours": lambda: ours(codes, "fp8_e4m3"),
            "bf16 cache": lambda: ours(plain, "auto"),
            "eager": eager,
        }

    shape = {"batch": batch, "keys": context, "head": HEAD_SIZE}
    moved = 2 * batch * KV_HEADS * context * HEAD_SIZE
    return Case("attention, FP8 cache", shape, "bf16", make, "decode", bytes_moved=moved)


def _latent(batch: int, context: int) -> Case:
    def make() -> dict[str, Call]:
        pages = context // LATENT_BLOCK
        cache = torch.randn(batch * pages, LATENT_BLOCK, LATENT, dtype=torch.bfloat16)
        query = torch.randn(batch, LATENT_HEADS, LATENT, dtype=torch.bfloat16)
        table = _table(batch, pages)
        lengths = torch.full((batch,), context, dtype=torch.int32)
        out = torch.empty(batch, LATENT_HEADS, VALUES, dtype=torch.bfloat16)

        def ours() -> torch.Tensor:
            ops.mla_decode_kvcache(out, query, cache, LATENT**-0.5, table, lengths)
            return out

        def eager() -> torch.Tensor:
            keys = cache[table.flatten().long()].view(batch, context, LATENT)
            weights = (query @ keys.mT).float().mul(LATENT**-0.5).softmax(-1)
            return weights.to(keys.dtype) @ keys[..., :VALUES]

        torch.testing.assert_close(ours(), eager(), rtol=0, atol=3e-2)
        return {"ours": ours, "eager": eager}

    shape = {"batch": batch, "keys": context, "heads": LATENT_HEADS}
    moved = 2 * batch * context * LATENT
    return Case("latent attention", shape, "bf16", make, "decode", bytes_moved=moved)


def cases() -> Iterator[Case]:
    for batch, context in BATCHES:
        yield _float8(batch, context)
        yield _latent(batch, context)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "small_caches", cases))
