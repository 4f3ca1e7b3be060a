"""A decoder layer's ops one behind another, as an engine launches them.

What neighbours cost each other (a start that may not overlap, another division of a
multiprocessor's memory) no benchmark of one op sees: "ours" is the whole chain, the other
contenders are its products and what is between them, each alone and in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch.nn.functional import linear

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.cuda.wna16_weights import Layer
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
# Llama 8B: hidden size, of the feed-forward network, heads, heads of keys, head size.
HIDDEN, FEED, HEADS, KEY_HEADS, HEAD = 4096, 14336, 32, 8, 128
QKV = (HEADS + 2 * KEY_HEADS) * HEAD
KEYS, BLOCK = 1024, 16
TOKENS = (1, 4, 8, 16, 32, 64)
BYTES = {"u4b8": 0.5, "fp8": 1, "bf16": 2}


def _bf16(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def _product(kind: str, m: int, k: int, n: int) -> Call:
    if kind == "u4b8":
        return Layer("u4b8", k, n).product(m)
    if kind == "bf16":
        return partial(linear, _bf16(m, k), _bf16(n, k))
    a, b = _bf16(m, k).to(FLOAT8), _bf16(n, k).to(FLOAT8).t()
    out, scales = _bf16(m, n), (torch.rand(m, 1, device="cuda"), torch.rand(1, n, device="cuda"))
    return partial(ops.cutlass_scaled_mm, out, a, b, *scales, None)


def _norm(kind: str, m: int) -> Call:
    x, residual, weight = _bf16(m, HIDDEN), _bf16(m, HIDDEN), _bf16(HIDDEN)
    if kind != "fp8":
        return partial(ops.fused_add_rms_norm, x, residual, weight, 1e-6)
    result, scales = torch.empty_like(x, dtype=FLOAT8), torch.empty(m, 1, device="cuda")
    return partial(
        ops.rms_norm_dynamic_per_token_quant, result, x, weight, scales, 1e-6, None, residual
    )


def _quantise(m: int, width: int) -> Call:
    x, scales = _bf16(m, width), torch.empty(m, 1, device="cuda")
    result = torch.empty_like(x, dtype=FLOAT8)
    return partial(ops.dynamic_per_token_scaled_fp8_quant, result, x, scales, None)


def _attention(m: int) -> tuple[Call, Call, Call]:
    """Rotation, writing of keys and values, attention of ``m`` requests of KEYS keys."""
    query, key, value = _bf16(m, HEADS, HEAD), _bf16(m, KEY_HEADS, HEAD), _bf16(m, KEY_HEADS, HEAD)
    pages = KEYS // BLOCK
    keys, values = (_bf16(m * pages, BLOCK, KEY_HEADS, HEAD) for _ in range(2))
    table = torch.randperm(m * pages, device="cuda").int().view(m, pages)
    slots = table[:, -1].long() * BLOCK + BLOCK - 1
    used = torch.full((m,), KEYS, dtype=torch.int32, device="cuda")
    starts = torch.arange(m + 1, dtype=torch.int32, device="cuda")
    positions = torch.full((m,), KEYS - 1, device="cuda")
    turns, one, out = _bf16(KEYS, HEAD), torch.ones(1, device="cuda"), torch.empty_like(query)
    return (
        partial(ops.rotary_embedding, positions, query, key, HEAD, turns, True),
        partial(ops.reshape_and_cache_flash, key, value, keys, values, slots, "auto", one, one),
        partial(
            ops.varlen_attention,
            *(out, query, keys, values, starts, used, None, table, 1, KEYS, HEAD**-0.5, True),
        ),
    )


def _in_turn(calls: list[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _layer(kind: str, m: int) -> dict[str, Call]:
    up = _bf16(m, 2 * FEED)
    quantised = kind == "fp8"
    others: list[list[Call]] = [
        [_norm(kind, m)],
        [*_attention(m), *([_quantise(m, HIDDEN)] if quantised else [])],
        [_norm(kind, m)],
        [
            partial(ops.silu_and_mul, torch.empty_like(up[:, :FEED]), up),
            *([_quantise(m, FEED)] if quantised else []),
        ],
    ]
    sizes = [(HIDDEN, QKV), (HIDDEN, HIDDEN), (HIDDEN, 2 * FEED), (FEED, HIDDEN)]
    products = [_product(kind, m, k, n) for k, n in sizes]
    chain = [
        call for part, product in zip(others, products, strict=True) for call in (*part, product)
    ]
    return {
        "ours": _in_turn(chain),
        "ours, products": _in_turn(products),
        "ours, between them": _in_turn([call for part in others for call in part]),
        "ours, norm and product": _in_turn([others[2][0], products[2]]),
        "ours, product after norm": products[2],
        "ours, silu and product": _in_turn([*others[3], products[3]]),
        "ours, product after silu": products[3],
        "ours, attention and product": _in_turn([others[1][2], products[1]]),
    }


def cases() -> Iterator[Case]:
    weights = HIDDEN * (QKV + HIDDEN + 3 * FEED)
    for kind in ("u4b8", "fp8", "bf16"):
        for m in TOKENS:
            moved = int(weights * BYTES[kind]) + m * KEYS * 2 * KEY_HEADS * HEAD * 2
            yield Case(
                "layer", {"tokens": m}, kind, partial(_layer, kind, m), load(m), bytes_moved=moved
            )


if __name__ == "__main__":
    raise SystemExit(main("cuda", "chain", cases))
