"""Paged attention against scaled_dot_product_attention, with and without the gather it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, main

ops = torch.ops.vllm_kernels
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16}
HEADS, KV_HEADS, BLOCK = 32, 8, 128
GROUP = HEADS // KV_HEADS
HEAD_SIZES = (128, 64)
DECODE = [
    *((batch, context) for batch in (1, 8, 32) for context in (128, 2048, 8192)),
    (1, 32768),
]
FP8_DECODE = [(1, 2048), (1, 32768), (8, 2048)]
PREFILL = (128, 512, 2048)
CACHE_BYTES_MAX = 1 << 30


@dataclass
class Paged:
    """Requests of one length each: `tokens` queries (the last ones) over `context` keys."""

    batch: int
    tokens: int
    context: int
    head_size: int
    dtype: torch.dtype
    fp8: bool = False

    def __post_init__(self) -> None:
        pages = -(-self.context // BLOCK)
        blocks = self.batch * pages
        # As the engine's: K and V are halves of one buffer.
        both = torch.randn(blocks, KV_HEADS, 2, BLOCK, self.head_size)
        if self.fp8:
            coded = both.to(torch.float8_e4m3fn)
            both = coded.float()
        self.plain = both.to(self.dtype)  # what the peers gather
        cache = coded.view(torch.uint8) if self.fp8 else self.plain
        self.key_cache, self.value_cache = cache[:, :, 0], cache[:, :, 1]
        self.table = torch.randperm(blocks).to(torch.int32).view(self.batch, pages)
        total = self.batch * self.tokens
        self.query = torch.randn(total, HEADS, self.head_size).to(self.dtype)
        self.output = torch.empty_like(self.query)
        self.starts = torch.arange(0, total + 1, self.tokens, dtype=torch.int32)
        self.lengths = torch.full((self.batch,), self.context, dtype=torch.int32)
        self.metadata = torch.zeros(16, dtype=torch.int8)

    def ours(self) -> None:
        ops.cpu_attention_with_kv_cache(
            self.query,
            self.key_cache,
            self.value_cache,
            self.output,
            self.starts,
            self.lengths,
            self.head_size**-0.5,
            True,
            None,
            -1,
            self.table,
            0.0,
            self.metadata,
            None,
            None,
            kv_cache_dtype="fp8" if self.fp8 else "auto",
        )

    def gathered(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [batch, kv_heads, context, head_size] as SDPA wants them."""
        blocks = self.table.flatten()

        def gather(cache: torch.Tensor) -> torch.Tensor:
            pages = cache.index_select(0, blocks).view(self.batch, -1, *cache.shape[1:])
            return pages.transpose(1, 2).flatten(2, 3)[:, :, : self.context]

        return gather(self.plain[:, :, 0]), gather(self.plain[:, :, 1])

    def queries(self) -> torch.Tensor:
        return self.query.view(self.batch, self.tokens, HEADS, -1).transpose(1, 2)

    def grouped(self) -> torch.Tensor:
        """One query token: the heads of a group as the rows of one head, nothing to repeat."""
        return self.query.view(self.batch, KV_HEADS, GROUP, -1)

    def verify(self, expected: torch.Tensor) -> None:
        """Both sides must compute the same before their times mean anything."""
        self.ours()
        actual = self.output.view_as(expected) if self.tokens == 1 else self.output
        torch.testing.assert_close(actual, expected, rtol=0, atol=2e-2)


def _decode(
    batch: int, context: int, head_size: int, dtype: str, gathered: bool, fp8: bool = False
) -> Case:
    """One query token a request. ``gathered``: the peers' keys lie ready, their gather untimed.

    ``fp8``: of an FP8 cache; what the peers have gathered is decoded too.
    """

    def make() -> dict[str, Call]:
        paged = Paged(batch, 1, context, head_size, DTYPES[dtype], fp8)

        def gather_grouped() -> torch.Tensor:
            return sdpa(paged.grouped(), *paged.gathered())

        paged.verify(gather_grouped())
        if gathered:
            key, value = (part.contiguous() for part in paged.gathered())
            return {
                "ours": paged.ours,
                "eager": lambda: sdpa(paged.queries(), key, value, enable_gqa=True),
                "grouped": lambda: sdpa(paged.grouped(), key, value),
            }
        return {
            "ours": paged.ours,
            "eager": lambda: sdpa(paged.queries(), *paged.gathered(), enable_gqa=True),
            "grouped": gather_grouped,
            "compile": compiled(gather_grouped),
        }

    # Keys and values of the context, then queries and results.
    itemsize = DTYPES[dtype].itemsize
    cached = 2 * batch * KV_HEADS * context * head_size
    rows = 2 * batch * HEADS * head_size
    return Case(
        "attention",
        {"batch": batch, "keys": context, "head": head_size},
        dtype,
        make,
        "decode, gathered" if gathered else "decode",
        "fp8 cache" if fp8 else "",
        bytes_moved=cached * (1 if fp8 else itemsize) + rows * itemsize,
    )


def _prefill(tokens: int, head_size: int, dtype: str) -> Case:
    def make() -> dict[str, Call]:
        paged = Paged(1, tokens, tokens, head_size, DTYPES[dtype])
        key, value = (part.contiguous() for part in paged.gathered())

        def eager() -> torch.Tensor:
            return sdpa(paged.queries(), key, value, is_causal=True, enable_gqa=True)

        paged.verify(eager()[0].transpose(0, 1))
        return {"ours": paged.ours, "eager": eager, "compile": compiled(eager)}

    shape = {"tokens": tokens, "head": head_size}
    flops = 2 * tokens * (tokens + 1) * HEADS * head_size
    return Case("attention", shape, dtype, make, "prefill", flops=flops)


def cases() -> Iterator[Case]:
    for name, dtype in DTYPES.items():
        for head_size in HEAD_SIZES:
            for tokens in PREFILL:
                yield _prefill(tokens, head_size, name)
            for batch, context in DECODE:
                cache = 2 * batch * context * KV_HEADS * head_size * dtype.itemsize
                if cache <= CACHE_BYTES_MAX:
                    # A gather of more keys is timed in vain: it takes most of the peers' time.
                    for gathered in (False, True) if context <= 2048 else (True,):
                        yield _decode(batch, context, head_size, name, gathered)
            for batch, context in FP8_DECODE if name == "bf16" else ():
                yield _decode(batch, context, head_size, name, gathered=True, fp8=True)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "attention", cases))
