"""Rotary embedding, alone and with the norm of queries and keys, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

ops = torch.ops.vllm_kernels

RTOL = {torch.float32: 1e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
ATOL = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # sums that cancel
MAX_POSITION = 300


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def tables(rot_dim: int, dtype: torch.dtype) -> torch.Tensor:
    exponents = torch.arange(rot_dim // 2) * (2 / rot_dim)
    angles = torch.outer(torch.arange(float(MAX_POSITION)), 10000.0**-exponents)
    return torch.cat((angles.cos(), angles.sin()), -1).to(dtype).cuda()


def rotated(
    heads: torch.Tensor,
    positions: torch.Tensor,
    cache: torch.Tensor,
    is_neox: bool,
    offset: int = 0,
    inverse: bool = False,
) -> torch.Tensor:
    """Of float64 heads [tokens, heads, head_size]."""
    rot_dim = cache.shape[1]
    cos, sin = cache.double()[positions.flatten()].unsqueeze(1).chunk(2, -1)
    sin = -sin if inverse else sin
    out = heads.clone()
    part = out[..., offset : offset + rot_dim]
    if is_neox:
        x, y = part[..., : rot_dim // 2].clone(), part[..., rot_dim // 2 :].clone()
        part[..., : rot_dim // 2], part[..., rot_dim // 2 :] = x * cos - y * sin, y * cos + x * sin
    else:
        x, y = part[..., ::2].clone(), part[..., 1::2].clone()
        part[..., ::2], part[..., 1::2] = x * cos - y * sin, y * cos + x * sin
    return out


def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
    rtol, atol = RTOL[actual.dtype], ATOL[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=rtol, atol=atol)


# tokens, query heads, key heads, head size, rotated components, first of them
SHAPES = [
    (1, 1, 1, 64, 64, 0),
    (17, 4, 2, 128, 128, 0),
    (3, 5, 1, 128, 64, 0),
    (127, 3, 0, 96, 32, 32),
    (5, 4, 4, 80, 20, 60),  # not whole vectors
    (7, 2, 2, 192, 64, 128),
    (3000, 8, 2, 128, 128, 0),  # several heads a thread
    (0, 2, 1, 64, 64, 0),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
@pytest.mark.parametrize("wide_cache", [False, True], ids=["cache", "cache-f32"])
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
def test_rotary_embedding(
    dtype: torch.dtype, shape: tuple[int, ...], is_neox: bool, wide_cache: bool, inverse: bool
) -> None:
    tokens, heads, kv_heads, head, rot_dim, offset = shape
    positions = torch.randint(0, MAX_POSITION, (tokens,), device="cuda")
    cache = tables(rot_dim, torch.float32 if wide_cache else dtype)
    query = randn(tokens, heads * head, dtype=dtype)
    key = randn(tokens, kv_heads, head, dtype=dtype) if kv_heads else None
    args = (positions, cache, is_neox, offset, inverse)
    want_query = rotated(query.double().view(tokens, heads, head), *args)
    want_key = None if key is None else rotated(key.double(), *args)
    ops.rotary_embedding(positions, query, key, head, cache, is_neox, offset, inverse)
    check(query.view(tokens, heads, head), want_query)
    if key is not None:
        check(key, want_key)


@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
def test_strided(dtype: torch.dtype, is_neox: bool) -> None:
    """Slices of a fused projection, aligned and not, and DeepSeek's 3-D slice; the rest stays."""
    positions = torch.randint(0, MAX_POSITION, (5,), device="cuda")
    for first, head in ((0, 64), (3, 64), (8, 64)):
        cache = tables(head, dtype)
        qkv = randn(5, 8 * head + 16, dtype=dtype)
        before = qkv.clone()
        query, key = qkv[:, first : first + 4 * head], qkv[:, first + 4 * head : first + 6 * head]
        wants = [
            rotated(part.double().reshape(5, -1, head), positions, cache, is_neox)
            for part in (query, key)
        ]
        ops.rotary_embedding(positions, query, key, head, cache, is_neox)
        check(query.reshape(5, -1, head), wants[0])
        check(key.reshape(5, -1, head), wants[1])
        assert torch.equal(qkv[:, :first], before[:, :first])
        assert torch.equal(qkv[:, first + 6 * head :], before[:, first + 6 * head :])
    wide = randn(5, 4, 192, dtype=dtype)
    before = wide.clone()
    cache = tables(64, dtype)
    want = rotated(wide[..., 128:].double(), positions, cache, is_neox)
    ops.rotary_embedding(positions, wide[..., 128:], None, 64, cache, is_neox)
    check(wide[..., 128:], want)
    assert torch.equal(wide[..., :128], before[..., :128])


def test_two_dimensional_positions_and_positions_outside(dtype: torch.dtype) -> None:
    positions = torch.tensor([[0, MAX_POSITION, 7], [-1, 5, 299]], device="cuda")
    cache = tables(64, dtype)
    query = randn(2, 3, 4, 64, dtype=dtype)
    inside = ((positions >= 0) & (positions < MAX_POSITION)).flatten()
    flat = query.double().view(6, 4, 64)
    want = rotated(flat, positions.clamp(0, MAX_POSITION - 1), cache, True)
    want = torch.where(inside.view(6, 1, 1), want, flat)
    ops.rotary_embedding(positions, query, None, 64, cache, True)
    check(query.view(6, 4, 64), want)


# tokens, query, key and value heads, head size, rotated components
NORM_SHAPES = [
    (1, 1, 1, 1, 64, 64),
    (17, 4, 2, 2, 128, 128),
    (5, 3, 1, 0, 128, 64),
    (127, 8, 8, 8, 96, 96),
    (3, 2, 1, 1, 256, 128),
    (3, 2, 1, 1, 80, 20),  # not whole vectors
    (2, 1, 1, 1, 512, 512),
    (1000, 32, 8, 8, 128, 128),
    (0, 2, 1, 1, 64, 64),
]


@pytest.mark.parametrize("shape", NORM_SHAPES)
@pytest.mark.parametrize("is_neox", [True, False], ids=["neox", "gptj"])
@pytest.mark.parametrize("wide_cache", [False, True], ids=["cache", "cache-f32"])
def test_fused_qk_norm_rope(
    dtype: torch.dtype, shape: tuple[int, ...], is_neox: bool, wide_cache: bool
) -> None:
    tokens, heads, kv_heads, v_heads, head, rot_dim = shape
    positions = torch.randint(0, MAX_POSITION, (tokens,), device="cuda")
    cache = tables(rot_dim, torch.float32 if wide_cache else dtype)
    weights = randn(2, head, dtype=dtype)
    width = (heads + kv_heads + v_heads) * head
    for padding in (0, 3):  # rows that are not aligned
        qkv = randn(tokens, width + padding, dtype=dtype)[:, :width]
        total = heads + kv_heads + v_heads
        wide = qkv.double().view(tokens, total, head)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        by_head = weights.double()[[0] * heads + [1] * kv_heads + [0] * v_heads]
        want = rotated(normed * by_head, positions, cache, is_neox)
        want[:, heads + kv_heads :] = wide[:, heads + kv_heads :]
        ops.fused_qk_norm_rope(
            qkv, heads, kv_heads, v_heads, head, 1e-6, *weights, cache, is_neox, positions
        )
        check(qkv.reshape(tokens, total, head), want)


def test_graph(dtype: torch.dtype) -> None:
    positions = torch.randint(0, MAX_POSITION, (9,), device="cuda")
    cache = tables(64, dtype)
    query = randn(9, 128, dtype=dtype)
    ops.rotary_embedding(positions, query, None, 64, cache, True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.rotary_embedding(positions, query, None, 64, cache, True)
    query.copy_(randn(9, 128, dtype=dtype))
    positions.copy_(positions.flip(0))
    want = rotated(query.double().view(9, 2, 64), positions, cache, True)
    graph.replay()
    check(query.view(9, 2, 64), want)


def test_table_wider_than_any() -> None:
    x, positions = torch.zeros(5, 256, device="cuda"), torch.zeros(5, device="cuda").long()
    for width in (2**31, 2**33):
        cache = torch.empty(0, width, device="cuda")
        with pytest.raises(RuntimeError, match=r"^rotary_embedding: "):
            ops.rotary_embedding(positions, x, None, 64, cache, True)


def test_bad_input() -> None:
    positions = torch.zeros(4, dtype=torch.int64, device="cuda")
    query, cache = randn(4, 128, dtype=torch.float32), tables(64, torch.float32)
    rope: list[tuple[tuple[Any, ...], str]] = [
        ((positions.int(), query, None, 64, cache, True), "positions is int32, want int64"),
        ((positions, query[:3], None, 64, cache, True), r"query has shape \[3, 128\], want \["),
        ((positions, query, query.half(), 64, cache, True), "key is float16, want float32 as q"),
        ((positions, query, None, 60, cache, True), "query has shape .* want a multiple of head_"),
        ((positions, query, None, 64, cache, True, 8), "rope_dim_offset is 8, want it and the 64"),
        (
            (positions, query, None, 64, cache[:, :63], True),
            "cos_sin_cache has shape .* even width",
        ),
        (
            (positions, query, None, 64, cache.half(), True),
            "cos_sin_cache is float16, want float32",
        ),
    ]
    for arguments, message in rope:
        with pytest.raises(RuntimeError, match=f"rotary_embedding: {message}"):
            ops.rotary_embedding(*arguments)
    weight = randn(64, dtype=torch.float32)
    with pytest.raises(
        RuntimeError, match=r"fused_qk_norm_rope: qkv has shape \[4, 128\], want 192"
    ):
        ops.fused_qk_norm_rope(query, 1, 1, 1, 64, 0.0, weight, weight, cache, True, positions)
    with pytest.raises(RuntimeError, match=r"position_ids has shape .* want 4 in dimension 0"):
        ops.fused_qk_norm_rope(query, 1, 1, 0, 64, 0.0, weight, weight, cache, True, positions[:3])
