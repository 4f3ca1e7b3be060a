"""Rotary embedding on a GPU, alone and fused with the norm, against PyTorch eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main
from vllm_kernels.reference.rope import fused_qk_norm_rope, rotary_embedding

ops = torch.ops.vllm_kernels

# Tokens, query heads, key heads, head size: Llama 8B in decode and prefill, Llama 70B, Gemma.
SHAPES = [(64, 32, 8, 128), (4096, 32, 8, 128), (16384, 32, 8, 128), (4096, 64, 8, 128)]


def eager_rope(
    positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, cache: torch.Tensor
) -> None:
    rotary_embedding(positions, query, key, 128, cache, True)


def eager_norm_rope(
    qkv: torch.Tensor,
    heads: int,
    kv_heads: int,
    weight: torch.Tensor,
    cache: torch.Tensor,
    positions: torch.Tensor,
) -> None:
    fused_qk_norm_rope(
        qkv, heads, kv_heads, kv_heads, 128, 1e-6, weight, weight, cache, True, positions
    )


fast_rope = torch.compile(eager_rope, dynamic=False)
fast_norm_rope = torch.compile(eager_norm_rope, dynamic=False)


def _tables(tokens: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions, and the cache as the engine makes it."""
    angles = torch.outer(torch.arange(32768.0), 10000.0 ** -(torch.arange(0, head, 2) / head))
    cache = torch.cat((angles.cos(), angles.sin()), -1).bfloat16().cuda()
    return torch.randint(0, 32768, (tokens,), device="cuda"), cache


def _rope(tokens: int, heads: int, kv_heads: int, head: int, is_neox: bool) -> Case:
    def make() -> dict[str, Call]:
        positions, cache = _tables(tokens, head)
        width = (heads + 2 * kv_heads) * head
        qkv = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda")
        query = qkv[:, : heads * head]
        key = qkv[:, heads * head : (heads + kv_heads) * head]
        calls: dict[str, Call] = {
            "ours": lambda: ops.rotary_embedding(positions, query, key, head, cache, is_neox)
        }
        if is_neox:
            calls["eager"] = lambda: eager_rope(positions, query, key, cache)
            calls["compile"] = lambda: fast_rope(positions, query, key, cache)
        return calls

    style = "neox" if is_neox else "gptj"
    return _case("rotary_embedding", style, (tokens, heads, kv_heads, head), make)


def _norm_rope(tokens: int, heads: int, kv_heads: int, head: int) -> Case:
    def make() -> dict[str, Call]:
        positions, cache = _tables(tokens, head)
        width = (heads + 2 * kv_heads) * head
        qkv = torch.randn(tokens, width, dtype=torch.bfloat16, device="cuda")
        weight = torch.randn(head, dtype=torch.bfloat16, device="cuda")
        args = (qkv, heads, kv_heads, weight, cache, positions)
        return {
            "ours": lambda: ops.fused_qk_norm_rope(
                qkv, heads, kv_heads, kv_heads, head, 1e-6, weight, weight, cache, True, positions
            ),
            "eager": lambda: eager_norm_rope(*args),
            "compile": lambda: fast_norm_rope(*args),
        }

    return _case("fused_qk_norm_rope", "", (tokens, heads, kv_heads, head), make)


def _case(
    op: str, style: str, sizes: tuple[int, int, int, int], make: Callable[[], dict[str, Call]]
) -> Case:
    tokens, heads, kv_heads, head = sizes
    shape = {"tokens": tokens, "heads": heads, "kv_heads": kv_heads, "head": head}
    moved = 4 * tokens * (heads + kv_heads) * head
    return Case(op, shape, "bf16", make, load(tokens), variant=style, bytes_moved=moved)


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        yield _rope(*shape, True)
        yield _norm_rope(*shape)
    yield _rope(*SHAPES[1], False)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "rope", cases))
