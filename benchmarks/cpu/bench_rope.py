"""rotary_embedding against PyTorch eager and torch.compile, in place like the op."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
TOKENS = (1, 8, 512, 2048)
HEADS, KV_HEADS, HEAD_SIZE, MAX_POSITION = 32, 8, 128, 4096


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_neox: bool) -> None:
    """What a model written in PyTorch does, its result written over `x` [tokens, heads, size]."""
    if is_neox:
        x1, x2 = x.chunk(2, -1)
        x.copy_(torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1))
    else:
        x1, x2 = x[..., ::2], x[..., 1::2]
        x.copy_(torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1).flatten(-2))


def _case(tokens: int, dtype: str, style: str) -> Case:
    is_neox = style == "neox"

    def make() -> dict[str, Call]:
        positions = torch.randint(0, MAX_POSITION, (tokens,))
        angle = torch.rand(MAX_POSITION, HEAD_SIZE // 2)
        cache = torch.cat((angle.cos(), angle.sin()), -1).to(DTYPES[dtype])
        qkv = torch.randn(tokens, (HEADS + 2 * KV_HEADS) * HEAD_SIZE).to(DTYPES[dtype])
        query, key, _ = qkv.split(
            (HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE), dim=-1
        )

        def torch_rotary(positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> None:
            cos, sin = cache[positions].unsqueeze(1).chunk(2, -1)
            _rotate(query.unflatten(-1, (HEADS, HEAD_SIZE)), cos, sin, is_neox)
            _rotate(key.unflatten(-1, (KV_HEADS, HEAD_SIZE)), cos, sin, is_neox)

        return {
            "ours": lambda: ops.rotary_embedding(positions, query, key, HEAD_SIZE, cache, is_neox),
            "eager": lambda: torch_rotary(positions, query, key),
            "compile": compiled(torch_rotary, positions, query, key),
        }

    return Case(
        "rotary_embedding",
        {"tokens": tokens, "heads": HEADS, "kv_heads": KV_HEADS, "head": HEAD_SIZE},
        dtype,
        make,
        load(tokens),
        variant=style,
        bytes_moved=2 * tokens * (HEADS + KV_HEADS) * HEAD_SIZE * DTYPES[dtype].itemsize,
    )


def cases() -> Iterator[Case]:
    for dtype in DTYPES:
        for tokens in TOKENS:
            for style in ("neox", "gptj"):
                yield _case(tokens, dtype, style)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "rope", cases))
