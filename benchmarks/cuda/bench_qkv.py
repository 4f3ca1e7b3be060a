"""Queries, keys and values on their way into attention, against PyTorch eager and compiled.

Every token has a slot, so PyTorch writes rows by their index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main
from vllm_kernels.reference.qkv.steps import exponents, halves, normed, rotated, tiles

ops = torch.ops.vllm_kernels

BLOCK = 64
TOKENS = [32, 1024, 8192]


def _randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def _places(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slots, positions and angles."""
    turns = torch.outer(torch.arange(8192.0), 10000.0 ** -(torch.arange(32) / 32))
    angles = torch.cat((turns.cos(), turns.sin()), -1).cuda()
    slots = torch.randperm(tokens, device="cuda")
    return slots, torch.randint(0, 8192, (tokens,), device="cuda"), angles


def eager_deepseek(
    q: torch.Tensor,
    kv: torch.Tensor,
    cache: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    angles: torch.Tensor,
) -> torch.Tensor:
    cos, sin = halves(angles)
    latent = rotated(kv.unsqueeze(1), positions, cos, sin, 448, False).squeeze(1).bfloat16()
    values, power = tiles(latent[:, :448], 64, 1e-4)
    entries = cache[:, : BLOCK * 576].unflatten(1, (BLOCK, 576))
    powers = cache[:, BLOCK * 576 :].unflatten(1, (BLOCK, 8))
    block, slot = slots // BLOCK, slots % BLOCK
    rest = latent[:, 448:].contiguous().view(torch.uint8)
    entries[block, slot] = torch.cat((values.view(torch.uint8), rest), -1)
    powers[block, slot] = torch.nn.functional.pad(exponents(power), (0, 1))
    return rotated(normed(q, 1e-6), positions, cos, sin, 448, False).bfloat16()


def eager_minimax(
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    angles: torch.Tensor,
    positions: torch.Tensor,
    count: int,
    kv_heads: int,
    slots: torch.Tensor,
    cache: torch.Tensor,
) -> None:
    q, k, v = qkv.unflatten(1, (-1, 128)).split((count, kv_heads, kv_heads), dim=1)
    for heads, weight in ((q, q_weight), (k, k_weight)):
        wide = normed(heads, 1e-6, weight, 1.0)
        heads.copy_(rotated(wide, positions, *halves(angles), 0, True))
    cache[slots // BLOCK, :, slots % BLOCK] = torch.cat((k, v), -1)


def eager_kimi(
    nope: torch.Tensor,
    pe: torch.Tensor,
    latent: torch.Tensor,
    key: torch.Tensor,
    out: torch.Tensor,
    cache: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    angles: torch.Tensor,
) -> None:
    cos, sin = halves(angles)
    out[..., :512] = nope
    out[..., 512:] = rotated(pe, positions, cos, sin, 0, False)
    turned = rotated(key.unsqueeze(1), positions, cos, sin, 0, False).squeeze(1).bfloat16()
    cache[slots // BLOCK, slots % BLOCK] = torch.cat((latent, turned), -1)


fast_deepseek = torch.compile(eager_deepseek, dynamic=False)
fast_minimax = torch.compile(eager_minimax, dynamic=False)
fast_kimi = torch.compile(eager_kimi, dynamic=False)


def _deepseek(tokens: int, count: int) -> Case:
    op = "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert"

    def make() -> dict[str, Call]:
        q, kv = _randn(tokens, count, 512), _randn(tokens, 512)
        blocks = -(-tokens // BLOCK)
        cache = torch.zeros(blocks, BLOCK * 584, dtype=torch.uint8, device="cuda")
        args = (q, kv, cache, *_places(tokens))
        return {
            "ours": lambda: ops.fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert(
                *args, count, 1e-6, BLOCK
            ),
            "eager": lambda: eager_deepseek(*args),
            "compile": lambda: fast_deepseek(*args),
        }

    moved = tokens * (count * 512 * 4 + 1024 + 584)
    return _case(op, {"tokens": tokens, "heads": count}, make, moved)


def _minimax(tokens: int, count: int, kv_heads: int) -> Case:
    op = "fused_minimax_m3_qknorm_rope_kv_insert"

    def make() -> dict[str, Call]:
        qkv = _randn(tokens, (count + 2 * kv_heads) * 128)
        weights = _randn(128), _randn(128)
        slots, positions, angles = _places(tokens)
        shape = (-(-tokens // BLOCK), kv_heads, BLOCK, 256)
        cache = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
        both = (qkv, *weights, angles, positions, count, kv_heads)
        index = (None, None, 0, slots, None, cache, None, BLOCK, None, None, "auto")
        return {
            "ours": lambda: ops.fused_minimax_m3_qknorm_rope_kv_insert(*both, 64, 1e-6, *index),
            "eager": lambda: eager_minimax(*both, slots, cache),
            "compile": lambda: fast_minimax(*both, slots, cache),
        }

    moved = tokens * 128 * 2 * (2 * count + 5 * kv_heads)
    return _case(op, {"tokens": tokens, "heads": count, "kv_heads": kv_heads}, make, moved)


def _kimi(tokens: int, count: int) -> Case:
    op = "fused_kimi_k3_mla_decode_q_concat_kv_cache_insert"

    def make() -> dict[str, Call]:
        nope, pe = _randn(tokens, count, 512), _randn(tokens, count, 64)
        latent, key = _randn(tokens, 512), _randn(tokens, 64)
        slots, positions, angles = _places(tokens)
        out = torch.empty(tokens, count, 576, dtype=torch.bfloat16, device="cuda")
        shape = (-(-tokens // BLOCK), BLOCK, 576)
        cache = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
        args = (nope, pe, latent, key, out, cache, slots)
        return {
            "ours": lambda: ops.fused_kimi_k3_mla_decode_q_concat_kv_cache_insert(
                *args, BLOCK, positions, angles
            ),
            "eager": lambda: eager_kimi(*args, positions, angles),
            "compile": lambda: fast_kimi(*args, positions, angles),
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
