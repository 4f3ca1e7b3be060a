"""Writing the paged cache and computing slots against PyTorch eager and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import harness
import torch

import vllm_kernels  # noqa: F401  registers the ops

ops = torch.ops.vllm_kernels
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = {1: "decode", 8: "decode", 512: "prefill", 2048: "prefill"}
HEADS, HEAD_SIZE, BLOCK_SIZE, BLOCKS = 8, 128, 128, 64


def _write(tokens: int, group: str, name: str) -> harness.Case:
    """Decode: each token in a block of its own. Prefill: one request, block after block."""
    shape = (BLOCKS, HEADS, 2, BLOCK_SIZE, HEAD_SIZE)
    buffer = torch.zeros(shape, dtype=DTYPES[name])
    key_cache, value_cache = buffer[:, :, 0], buffer[:, :, 1]
    qkv = torch.randn(tokens, 6 * HEADS, HEAD_SIZE).to(DTYPES[name])
    key, value = qkv[:, 4 * HEADS : 5 * HEADS], qkv[:, 5 * HEADS :]
    slots = torch.arange(tokens)
    if group == "decode":
        slots = slots * BLOCK_SIZE + 5

    def torch_write(key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        block, offset = slots // BLOCK_SIZE, slots % BLOCK_SIZE
        key_cache[block, :, offset] = key
        value_cache[block, :, offset] = value

    return harness.Case(
        f"reshape_and_cache {tokens} tokens 8x128 {name}",
        group,
        lambda: ops.cpu_attn_reshape_and_cache(key, value, key_cache, value_cache, slots, "vec"),
        {
            "eager": lambda: torch_write(key, value, slots),
            "compile": harness.compiled(torch_write, key, value, slots),
        },
        bytes_moved=4 * tokens * HEADS * HEAD_SIZE * buffer.itemsize,
    )


def _slots(requests: int, length: int, group: str) -> harness.Case:
    tokens = requests * length
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
    return harness.Case(
        f"slot_mapping {requests} requests of {length}",
        group,
        lambda: ops.compute_slot_mapping_kernel_impl(*arguments, BLOCK_SIZE),
        {
            "eager": lambda: torch_slots(*arguments),
            "compile": harness.compiled(torch_slots, *arguments),
        },
    )


def cases() -> Iterator[harness.Case]:
    for name in DTYPES:
        for tokens, group in TOKENS.items():
            yield _write(tokens, group, name)
    for requests, length, group in ((1, 1, "decode"), (8, 1, "decode"), (4, 512, "prefill")):
        yield _slots(requests, length, group)


if __name__ == "__main__":
    raise SystemExit(harness.main("cache", cases))
