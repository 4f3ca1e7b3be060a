"""DeepSeek-V4's queries and latents on their way into attention, against float64.

Each test runs on the GPU, on the host by an emulation, and by the reference.
"""

from __future__ import annotations

import pytest
import torch

from ..common.qkv import FLOAT8, On, check_rows, close, close8, normed, placed, rotated, tiled
from .qkv import PACKED, caller, device_of, on_every_device

EPS = 1e-6
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])


@on_every_device
@DTYPES
@pytest.mark.parametrize(("tokens", "heads"), [(1, 1), (17, 3), (0, 2)])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
def test_deepseek_rows(where: str, dtype: torch.dtype, tokens: int, heads: int, norm: bool) -> None:
    """Caches of whole rows: 16-bit in place, and float8."""
    call = caller(where)
    on = On(device_of(where), dtype)
    q, kv = on.randn(tokens, heads, 512), on.randn(tokens, 512)
    cache, positions, slots = on.angles(32), on.positions(tokens), on.slots(tokens, 40)
    wide = normed(q, EPS) if norm else q.double()
    want_q = rotated(wide, positions, cache, 448, False)
    want_k = rotated(kv.unsqueeze(1), positions, cache, 448, False).squeeze(1)
    rows = on.empty(5, 8, 512)
    before, given = rows.clone(), q.clone()
    op = "fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert"
    call(op, q, kv, rows, slots, positions, cache, EPS, 8, norm)
    close(q, want_q)
    check_rows(rows.flatten(0, 1), before.flatten(0, 1), want_k, slots)
    for token, slot in placed(slots, tokens, 40):  # what is not rotated is moved
        assert torch.equal(rows.flatten(0, 1)[slot, :448], kv[token, :448])

    rows = on.empty(5, 8, 512, dtype=FLOAT8)
    before, q_fp8 = rows.clone(), on.empty(tokens, heads, 512, dtype=FLOAT8)
    op = "fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_fp8_insert"
    scale, inverse = on.scale(0.013), on.scale(37.0)
    call(op, given, kv, q_fp8, rows, slots, positions, cache, scale, inverse, EPS, 8, norm)
    close8(q_fp8, want_q * 37.0)
    flat, old = rows.flatten(0, 1), before.flatten(0, 1)
    check_rows(flat, old, want_k / scale.double(), slots, close8)
    again = before.clone()
    op = "fused_deepseek_v4_kv_rope_insert"
    call(op, kv, again, slots, positions, cache, 8, scale, False)
    assert torch.equal(again.view(torch.uint8), rows.view(torch.uint8))


def _check_packed(
    cache: torch.Tensor, want: torch.Tensor, slots: torch.Tensor, block: int, mxfp8: bool
) -> None:
    """The entries of a cache of bytes [blocks, bytes]."""
    for token, slot in placed(slots, len(want), len(cache) * block):
        page, at = cache[slot // block], slot % block
        if mxfp8:
            entry = page[528 * at : 528 * (at + 1)]
            values, power, rest = entry[:512], entry[512:], None
        else:
            entry = page[576 * at : 576 * (at + 1)]
            power = page[576 * block + 8 * at : 576 * block + 8 * (at + 1)]
            values, rest = entry[:448], entry[448:]
            assert power[7] == 0
            power = power[:7]
        powers = torch.exp2(power.double() - 127)
        count = len(values)
        tiled(values.view(FLOAT8), powers, want[token, :count], 32 if mxfp8 else 64)
        if rest is not None:
            close(rest.clone().view(torch.bfloat16), want[token, count:])


@on_every_device
@pytest.mark.parametrize("mxfp8", [False, True], ids=["v4", "v41"])
@pytest.mark.parametrize(("tokens", "heads", "padded"), [(1, 1, 8), (17, 3, 3), (5, 2, 64)])
def test_deepseek_packed(where: str, tokens: int, heads: int, padded: int, mxfp8: bool) -> None:
    call = caller(where)
    on = On(device_of(where), torch.bfloat16)
    q, kv = on.randn(tokens, heads, 512), on.randn(tokens, 512)
    kv[0, 64:128], kv[-1, :64] = 0.0, 3e5
    angles, positions, slots = on.angles(32), on.positions(tokens), on.slots(tokens, 32)
    want_k = rotated(kv.unsqueeze(1), positions, angles, 448, False).squeeze(1)
    rounded = want_k.to(torch.bfloat16) if mxfp8 else want_k
    block, width = 8, 8 * (528 if mxfp8 else 584) + 64
    results = []
    for norm, rope in ((True, True), (False, False), (False, True)):
        cache = on.empty(4, width, dtype=torch.uint8)
        args = (q, kv, cache, slots, positions, angles, padded, EPS, block)
        out = call(PACKED, *args, norm, mxfp8, rope, False)
        assert out is not None
        wide = normed(q, EPS) if norm else q.double()
        want = rotated(wide, positions, angles, 448, False) if rope else wide
        close(out[:, :heads], want)
        assert out.shape == (tokens, padded, 512)
        assert not out[:, heads:].any()
        _check_packed(cache, rounded, slots, block, mxfp8)
        results.append(cache)
    assert torch.equal(results[0], results[1])
    alone = on.empty(4, width, dtype=torch.uint8)
    op = "fused_deepseek_v4_kv_rope_insert"
    call(op, kv, alone, slots, positions, angles, block, None, mxfp8)
    assert torch.equal(alone, results[0])
    if not mxfp8:
        into, cache = on.empty(tokens, padded, 512), on.empty(4, width, dtype=torch.uint8)
        if where != "emulated":  # a name of the same C function
            op = f"{PACKED}_out"
            call(op, q, kv, into, cache, slots, positions, angles, padded, EPS, block)
            again = call(PACKED, q, kv, alone, slots, positions, angles, padded, EPS, block)
            assert torch.equal(into, again)
            assert torch.equal(cache, results[0])


@on_every_device
@pytest.mark.parametrize(("heads", "padded"), [(1, 4), (16, 64), (3, 3)])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])
def test_deepseek_interleaved(where: str, heads: int, padded: int, norm: bool) -> None:
    """Chunks of 16 elements, those of all heads together: the same values in other places."""
    call = caller(where)
    on = On(device_of(where), torch.bfloat16)

    def interleaved(x: torch.Tensor) -> torch.Tensor:
        chunks = x.unflatten(-1, (32, 16)).transpose(1, 2)
        return chunks.reshape(x.shape)

    q, kv = on.randn(5, heads, 512), on.randn(5, 512)
    angles, positions, slots = on.angles(32), on.positions(5), on.slots(5, 16)

    def run(x: torch.Tensor, chunked: bool, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        cache = on.empty(2, 8, 528, dtype=torch.uint8)
        args = (x, kv, cache, slots, positions, angles, width, EPS, 8, norm, True, True, chunked)
        out = call(PACKED, *args)
        assert out is not None
        return out, cache

    plain, first = run(q, False, padded)
    chunked, second = run(interleaved(q), True, padded)
    assert torch.equal(chunked, interleaved(plain))
    nothing, third = run(q, True, 0)
    assert nothing.numel() == 0
    assert torch.equal(first, second)
    assert torch.equal(first, third)


@pytest.mark.parametrize("where", ["gpu", pytest.param("emulated", marks=pytest.mark.no_gpu)])
def test_bad_input(where: str) -> None:
    call, on = caller(where), On(device_of(where), torch.bfloat16)
    q, kv, rows = on.randn(4, 2, 512), on.randn(4, 512), on.empty(2, 8, 512)
    slots, positions, angles = on.slots(4, 16), on.positions(4), on.angles(32)
    good = [q, kv, rows, slots, positions, angles, EPS, 8, True]
    wrong: list[tuple[int, object, str]] = [
        (0, q.float(), "q is float32, want bfloat16 or float16"),
        (0, q[..., :256], r"q has shape .* want 512 in dimension 2"),
        (0, q[:3], "q has shape .* want 4 tokens and 2 heads of 512 elements"),
        (1, kv.half(), "kv is float16, want bfloat16"),
        (1, on.randn(4, 520)[:, 1:513], "rows of kv do not start at multiples of 8 elements"),
        (2, rows.half(), "k_cache is float16, want bfloat16"),
        (2, rows[:, :7], r"k_cache has shape \[2, 7, 512\], want 8 in dimension 1"),
        (3, slots.int(), "slot_mapping is int32, want int64"),
        (4, positions[:3], r"position_ids has shape \[3\], want at least 4"),
        (5, angles[:, :60], "angles of 30 pairs .* want a multiple of 4"),
        (5, angles.half(), "cosines are float16, want float32 or bfloat16"),
    ]
    op = "fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert"
    for at, value, message in wrong:
        args = [value if place == at else one for place, one in enumerate(good)]
        with pytest.raises((RuntimeError, AssertionError), match=f"{op}: {message}"):
            call(op, *args)
    packed = on.empty(2, 8 * 584, dtype=torch.uint8)
    for cache, padded, message in (
        (packed[:, 16:], 2, r"k_cache has shape \[2, 4656\], want \[blocks, 8 \* 584\] bytes"),
        (packed, 1, "q_head_padded is 1, want 0 or at least q_in's 2 heads"),
    ):
        with pytest.raises((RuntimeError, AssertionError), match=f"{PACKED}: {message}"):
            call(PACKED, q, kv, cache, slots, positions, angles, padded, EPS, 8)


def test_graph() -> None:
    on = On("cuda", torch.bfloat16)
    q, kv, cache = on.randn(5, 2, 512), on.randn(5, 512), on.empty(2, 8 * 584, dtype=torch.uint8)
    slots, positions, angles = on.slots(5, 16), on.positions(5), on.angles(32)
    ops = torch.ops.vllm_kernels

    def run() -> torch.Tensor:
        result = getattr(ops, PACKED)(q, kv, cache, slots, positions, angles, 8, EPS, 8)
        assert isinstance(result, torch.Tensor)
        return result

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    q.copy_(on.randn(5, 2, 512))
    graph.replay()
    again = result.clone()
    assert torch.equal(run(), again)
