"""Queries, keys and values on their way into attention, against PyTorch eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main
from vllm_kernels.reference.qkv import deepseek, heads, kimi

ops = torch.ops.vllm_kernels

BLOCK = 64
TOKENS = [32, 1024, 8192]


def _randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def _places(tokens: int, pairs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slots, positions and angles."""
    turns = torch.outer(torch.arange(8192.0), 10000.0 ** -(torch.arange(pairs) / pairs))
    angles = torch.cat((turns.cos(), turns.sin()), -1).cuda()
    slots = torch.randperm(tokens, device="cuda")
    return slots, torch.randint(0, 8192, (tokens,), device="cuda"), angles


def _deepseek(tokens: int, count: int) -> Case:
    op = "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert"
    fast = torch.compile(deepseek.fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert, dynamic=False)

    def make() -> dict[str, Call]:
        q, kv = _randn(tokens, count, 512), _randn(tokens, 512)
        blocks = -(-tokens // BLOCK)
        cache = torch.zeros(blocks, BLOCK * 584, dtype=torch.uint8, device="cuda")
        args = (q, kv, cache, *_places(tokens, 32), count, 1e-6, BLOCK)
        return {
            "ours": lambda: ops.fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(*args),
            "eager": lambda: deepseek.fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(*args),
            "compile": lambda: fast(*args),
        }

    moved = tokens * (count * 512 * 4 + 1024 + 584)
    return _case(op, {"tokens": tokens, "heads": count}, make, moved)


def _minimax(tokens: int, count: int, kv_heads: int) -> Case:
    op = "fused_minimax_m3_qknorm_rope_kv_insert"
    fast = torch.compile(heads.fused_minimax_m3_qknorm_rope_kv_insert, dynamic=False)

    def make() -> dict[str, Call]:
        qkv = _randn(tokens, (count + 2 * kv_heads) * 128)
        weights = _randn(128), _randn(128)
        slots, positions, angles = _places(tokens, 32)
        cache = torch.zeros(
            (-(-tokens // BLOCK), kv_heads, BLOCK, 256), dtype=torch.bfloat16, device="cuda"
        )
        args = (qkv, *weights, angles, positions, count, kv_heads, 64, 1e-6, None, None, 0)
        rest = (slots, None, cache, None, BLOCK, None, None, "auto")
        return {
            "ours": lambda: ops.fused_minimax_m3_qknorm_rope_kv_insert(*args, *rest),
            "eager": lambda: heads.fused_minimax_m3_qknorm_rope_kv_insert(*args, *rest),
            "compile": lambda: fast(*args, *rest),
        }

    moved = tokens * 128 * 2 * (2 * count + 5 * kv_heads)
    return _case(op, {"tokens": tokens, "heads": count, "kv_heads": kv_heads}, make, moved)


def _kimi(tokens: int, count: int) -> Case:
    op = "fused_kimi_k3_mla_decode_q_concat_kv_cache_insert"
    fast = torch.compile(kimi.fused_kimi_k3_mla_decode_q_concat_kv_cache_insert, dynamic=False)

    def make() -> dict[str, Call]:
        nope, pe = _randn(tokens, count, 512), _randn(tokens, count, 64)
        latent, key = _randn(tokens, 512), _randn(tokens, 64)
        slots, positions, angles = _places(tokens, 32)
        out = torch.empty(tokens, count, 576, dtype=torch.bfloat16, device="cuda")
        cache = torch.zeros((-(-tokens // BLOCK), BLOCK, 576), dtype=torch.bfloat16, device="cuda")
        args = (nope, pe, latent, key, out, cache, slots, BLOCK, positions, angles)
        return {
            "ours": lambda: ops.fused_kimi_k3_mla_decode_q_concat_kv_cache_insert(*args),
            "eager": lambda: kimi.fused_kimi_k3_mla_decode_q_concat_kv_cache_insert(*args),
            "compile": lambda: fast(*args),
        }

    return _case(op, {"tokens": tokens, "heads": count}, make, tokens * (count + 1) * 576 * 4)


def _case(op: str, shape: dict[str, int], make: Callable[[], dict[str, Call]], moved: int) -> Case:
    return Case(op, shape, "bf16", make, load(shape["tokens"]), bytes_moved=moved)


def cases() -> Iterator[Case]:
    for tokens in TOKENS:
        yield _deepseek(tokens, 64)
        yield _minimax(tokens, 64, 4)
        yield _kimi(tokens, 64)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "qkv", cases))
