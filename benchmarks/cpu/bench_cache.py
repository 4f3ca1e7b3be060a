"""Writing the paged cache and computing slots against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = (1, 8, 512, 2048)
HEADS, HEAD_SIZE, BLOCK_SIZE, BLOCKS = 8, 128, 128, 64


def _write(tokens: int, dtype: str) -> Case:
    """Decode: each token in a block of its own. Prefill: one request, block after block."""
    group = load(tokens)

    def make() -> dict[str, Call]:
        shape = (BLOCKS, HEADS, 2, BLOCK_SIZE, HEAD_SIZE)
        buffer = torch.zeros(shape, dtype=DTYPES[dtype])
        key_cache, value_cache = buffer[:, :, 0], buffer[:, :, 1]
        qkv = torch.randn(tokens, 6 * HEADS, HEAD_SIZE).to(DTYPES[dtype])
        key, value = qkv[:, 4 * HEADS : 5 * HEADS], qkv[:, 5 * HEADS :]
        slots = torch.arange(tokens)
        if group == "decode":
            slots = slots * BLOCK_SIZE + 5

        def torch_write(key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
            block, offset = slots // BLOCK_SIZE, slots % BLOCK_SIZE
            key_cache[block, :, offset] = key
            value_cache[block, :, offset] = value

        caches = key_cache, value_cache
        return {
            "ours": lambda: ops.cpu_attn_reshape_and_cache(key, value, *caches, slots, "vec"),
            "eager": lambda: torch_write(key, value, slots),
            "compile": compiled(torch_write, key, value, slots),
        }

    moved = 4 * tokens * HEADS * HEAD_SIZE * DTYPES[dtype].itemsize
    shape = {"tokens": tokens, "heads": HEADS, "head": HEAD_SIZE}
    return Case("reshape_and_cache", shape, dtype, make, group, bytes_moved=moved)


def _slots(requests: int, length: int) -> Case:
    tokens = requests * length

    def make() -> dict[str, Call]:
        starts = torch.arange(requests + 1, dtype=torch.int32) * length
        positions = torch.arange(length).repeat(requests) + (500 if length == 1 else 0)
        table = torch.randint(0, 1000, (requests, 32), dtype=torch.int32)
        slots = torch.zeros(4096, dtype=torch.int64)

        def torch_slots(
            starts: torch.Tensor, positions: torch.Tensor, table: torch.Tensor, slots: torch.Tensor
        ) -> None:
            request = torch.arange(requests).repeat_interleave(starts.diff(), output_size=tokens)
            block = table[request, positions // BLOCK_SIZE].long()
            slots[:tokens] = block * BLOCK_SIZE + positions % BLOCK_SIZE

        arguments = (starts, positions, table, slots)
        return {
            "ours": lambda: ops.compute_slot_mapping_kernel_impl(*arguments, BLOCK_SIZE),
            "eager": lambda: torch_slots(*arguments),
            "compile": compiled(torch_slots, *arguments),
        }

    shape = {"requests": requests, "tokens": length}
    return Case("slot_mapping", shape, "i64", make, load(tokens))


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for tokens in TOKENS:
            yield _write(tokens, dtype)
    for requests, length in ((1, 1), (8, 1), (4, 512)):
        yield _slots(requests, length)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "cache", cases))
