"""Writing to and gathering from the paged cache on a GPU, against PyTorch's index operations."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels


def _flash(tokens: int, heads: int, kind: str, halves: bool) -> Case:
    """Keys and values of a fused projection; caches as FlashInfer's layout has them, or dense."""
    head, block = 128, 16

    def make() -> dict[str, Call]:
        qkv = torch.randn(tokens, 6 * heads * head, dtype=torch.bfloat16, device="cuda")
        key = qkv[:, 4 * heads * head : 5 * heads * head].unflatten(-1, (heads, head))
        value = qkv[:, 5 * heads * head :].unflatten(-1, (heads, head))
        dtype = torch.bfloat16 if kind == "auto" else torch.uint8
        blocks = 2 * tokens // block + 1
        if halves:
            memory = torch.zeros(blocks, heads, block, 2 * head, dtype=dtype, device="cuda")
            swapped = memory.transpose(1, 2)
            caches = swapped[..., :head], swapped[..., head:]
        else:
            memory = torch.zeros(2, blocks, block, heads, head, dtype=dtype, device="cuda")
            caches = memory[0], memory[1]
        pages = torch.randperm(blocks - 1, device="cuda")[: -(-tokens // block), None] * block
        slots = (pages + torch.arange(block, device="cuda")).flatten()[:tokens]
        one = torch.ones(1, device="cuda")
        block_of, slot_of = slots // block, slots % block

        def eager() -> None:
            caches[0][block_of, slot_of] = key
            caches[1][block_of, slot_of] = value

        calls: dict[str, Call] = {
            "ours": lambda: ops.reshape_and_cache_flash(key, value, *caches, slots, kind, one, one)
        }
        if kind == "auto":
            calls["eager"] = eager
        return calls

    bytes_moved = 2 * tokens * heads * head * (4 if kind == "auto" else 3)
    return Case(
        "reshape_and_cache_flash",
        {"tokens": tokens, "heads": heads, "head": head},
        kind,
        make,
        load(tokens),
        variant="halves" if halves else "dense",
        bytes_moved=bytes_moved,
    )


def _mla(tokens: int, kind: str) -> Case:
    width = 656 if kind == "fp8_ds_mla" else 576

    def make() -> dict[str, Call]:
        latents = torch.randn(tokens, 512, dtype=torch.bfloat16, device="cuda")
        ropes = torch.randn(tokens, 64, dtype=torch.bfloat16, device="cuda")
        dtype = torch.bfloat16 if kind == "auto" else torch.uint8
        cache = torch.zeros(tokens // 64 + 1, 64, width, dtype=dtype, device="cuda")
        slots, one = torch.randperm(tokens, device="cuda"), torch.ones(1, device="cuda")
        return {"ours": lambda: ops.concat_and_cache_mla(latents, ropes, cache, slots, kind, one)}

    bytes_moved = tokens * (2 * 576 + width * (2 if kind == "auto" else 1))
    shape = {"tokens": tokens}
    return Case("concat_and_cache_mla", shape, kind, make, load(tokens), bytes_moved=bytes_moved)


def _gather(sequences: int, length: int, kind: str) -> Case:
    tokens = sequences * length

    def make() -> dict[str, Call]:
        dtype = torch.bfloat16 if kind == "auto" else torch.uint8
        src = torch.randint(0, 100, (tokens // 64 + 1, 64, 576), device="cuda").to(dtype)
        dst = torch.empty(tokens, 576, dtype=torch.bfloat16, device="cuda")
        table = torch.randperm(tokens // 64, device="cuda").int().view(sequences, -1)
        starts = torch.arange(0, tokens + 1, length, device="cuda").int()
        owners = torch.arange(sequences, device="cuda").int().repeat_interleave(length)
        one = torch.ones(1, device="cuda")
        args = (src, dst, table, starts, owners, tokens, kind, one, None)
        calls: dict[str, Call] = {"ours": lambda: ops.gather_and_maybe_dequant_cache(*args)}
        if kind == "auto":
            pages = table.flatten().long()
            calls["eager"] = lambda: torch.index_select(
                src, 0, pages, out=dst.view(len(pages), 64, 576)
            )
        return calls

    bytes_moved = tokens * 576 * (4 if kind == "auto" else 3)
    return Case(
        "gather_and_maybe_dequant_cache",
        {"sequences": sequences, "tokens": length},
        kind,
        make,
        "prefill",
        bytes_moved=bytes_moved,
    )


def cases() -> Iterator[Case]:
    for tokens in (64, 8192, 32768):
        for kind in ("auto", "fp8"):
            yield _flash(tokens, 8, kind, False)
            yield _flash(tokens, 8, kind, True)
        for kind in ("auto", "fp8", "fp8_ds_mla"):
            yield _mla(tokens, kind)
    for kind in ("auto", "fp8"):
        yield _gather(16, 4096, kind)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "cache", cases))
