"""Projections of queries, keys and values on their way into attention, against float64.

Each test runs on the GPU, on the host by an emulation, and by the reference.
"""

from __future__ import annotations

import pytest
import torch

from ..common import qkv
from ..common.qkv import FLOAT8, On, check_rows, close, close8, normed, rotated
from .qkv import caller, device_of, on_every_device

EPS = 1e-6
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])


@on_every_device
@DTYPES
@pytest.mark.parametrize("tokens", [1, 19])
@pytest.mark.parametrize("kind", ["auto", "fp8", "fp8_e5m2"])
@pytest.mark.parametrize("index8", [False, True], ids=["index16", "index8"])
def test_minimax(where: str, dtype: torch.dtype, tokens: int, kind: str, index8: bool) -> None:
    call = caller(where)
    on = On(device_of(where), dtype)
    heads, kv_heads, index_heads, block = 5, 2, 3, 16
    counts = (heads, kv_heads, kv_heads, index_heads, 1)
    widths = [128 * count for count in counts]
    qkv_in = on.randn(tokens, sum(widths))
    weights = [on.randn(128) * 0.1 for _ in range(4)]
    angles, positions = on.angles(32, on.dtype), on.positions(tokens)
    slots, index_slots = on.slots(tokens, 3 * block), on.slots(tokens, 2 * block)
    q, k, v, iq, ik = (part.unflatten(1, (-1, 128)) for part in qkv_in.clone().split(widths, dim=1))
    wants = [
        rotated(normed(x, EPS, 1 + w.double()), positions, angles, 0, True)
        for x, w in zip((q, k, iq, ik), weights, strict=True)
    ]
    storage = on.dtype if kind == "auto" else torch.uint8
    index_type = FLOAT8 if index8 else on.dtype
    check_cache = close if kind == "auto" else close8
    q_out, q_fp8 = on.empty(tokens, widths[0]), on.empty(tokens, widths[0], dtype=FLOAT8)
    index_q = on.empty(tokens, widths[3], dtype=index_type)
    caches = (
        on.empty(3, kv_heads, block, 256, dtype=storage),
        on.empty(2, block, 128, dtype=index_type),
    )
    before = [cache.clone() for cache in caches]
    x = qkv_in.clone()
    args = (x, *weights[:2], angles, positions, heads, kv_heads, 64, EPS, *weights[2:])
    rest = (caches[0], caches[1], block, q_out, index_q, kind, False, q_fp8, 0.5, None, None)
    op = "fused_minimax_m3_qknorm_rope_kv_insert"
    call(op, *args, index_heads, slots, index_slots, *rest)
    close(q_out.view(tokens, heads, 128), wants[0])
    close8(q_fp8.view(tokens, heads, 128), wants[0] / 0.5)
    parts = x.split(widths, dim=1)
    for part, want in ((parts[1], wants[1]), (parts[4], wants[3])):
        close(part.reshape(want.shape), want)
    for at in (0, 2, 3):  # the queries went elsewhere
        assert torch.equal(parts[at], qkv_in.split(widths, dim=1)[at])
    (close8 if index8 else close)(index_q.view(tokens, index_heads, 128), wants[2])
    rows = qkv.cache_values(caches[0], kind).transpose(1, 2).flatten(0, 1)
    old = qkv.cache_values(before[0], kind).transpose(1, 2).flatten(0, 1)
    both = torch.cat((wants[1], v.double()), -1)
    check_rows(rows, old, both, slots, check_cache)
    check = close8 if index8 else close
    index_rows, index_old = caches[1].flatten(0, 1), before[1].flatten(0, 1)
    check_rows(index_rows, index_old, wants[3][:, 0], index_slots, check)


@on_every_device
@DTYPES
def test_minimax_dense_and_without_index(where: str, dtype: torch.dtype) -> None:
    call = caller(where)
    on = On(device_of(where), dtype)
    op = "fused_minimax_m3_qknorm_rope_kv_insert"
    angles, positions, slots = on.angles(32), on.positions(9), on.slots(9, 32)
    weights = [on.randn(128), on.randn(128)]
    x = on.randn(9, 8 * 128)
    before = x.clone().unflatten(1, (8, 128))
    want = torch.cat(
        [
            rotated(normed(before[:, a:b], EPS, 1 + w.double()), positions, angles, 0, True)
            for a, b, w in ((0, 4, weights[0]), (4, 6, weights[1]))
        ],
        1,
    )
    nothing = (None,) * 4
    call(
        op, x, *weights, angles, positions, 4, 2, 64, EPS, None, None, 0, *nothing, 0, None, None,
        "auto", False, None, 1.0, None, None,
    )  # fmt: skip
    close(x.view(9, 8, 128)[:, :6], want)
    assert torch.equal(x.view(9, 8, 128)[:, 6:], before[:, 6:])
    # The index's part is there and is left; without q_out the queries are float8 alone.
    x = torch.cat((before.flatten(1), on.randn(9, 3 * 128)), 1)
    given, q_fp8 = x.clone(), on.empty(9, 512, dtype=FLOAT8)
    cache = on.empty(2, 2, 16, 256)
    call(
        op, x, *weights, angles, positions, 4, 2, 64, EPS, None, None, 2, slots, None, cache, None,
        16, None, None, "auto", True, q_fp8, 2.0, None, None,
    )  # fmt: skip
    close8(q_fp8.view(9, 4, 128), want[:, :4] / 2.0)
    assert torch.equal(x[:, :512], given[:, :512])
    assert torch.equal(x[:, 768:], given[:, 768:])
    close(x[:, 512:768].reshape(9, 2, 128), want[:, 4:])


@on_every_device
@DTYPES
@pytest.mark.parametrize(
    ("head", "rotary", "kind"),
    [
        (64, 0, "none"),
        (64, 64, "auto"),
        (128, 32, "fp8"),
        (192, 64, "none"),
        (256, 0, "fp8"),
        (256, 64, "auto"),
    ],
)
def test_muse_spark(where: str, dtype: torch.dtype, head: int, rotary: int, kind: str) -> None:
    call = caller(where)
    on = On(device_of(where), dtype)
    tokens, heads, kv_heads, block = 13, 3, 2, 8
    width = (heads + 2 * kv_heads) * head
    x = on.randn(tokens, width + heads * head)  # and a gate, which is left
    given = x.clone()
    angles = on.angles(rotary // 2) if rotary else None
    positions, slots = on.positions(tokens), on.slots(tokens, 4 * block)
    storage = torch.uint8 if kind == "fp8" else on.dtype
    cache = None if kind == "none" else on.empty(4, kv_heads, block, 2 * head, dtype=storage)
    old = None if cache is None else cache.clone()
    scales = (on.scale(0.37), on.scale(1.83)) if kind == "fp8" else (None, None)
    queries8 = on.empty(tokens, heads * head, dtype=FLOAT8) if kind == "fp8" else None
    q_scale = on.scale(0.001) if kind == "fp8" else None
    call(
        "fused_muse_spark_qknorm_rope_kv_insert", x, positions, heads, kv_heads, head, EPS, angles,
        rotary, slots, cache, block, "auto" if kind == "none" else kind, *scales, queries8, q_scale,
    )  # fmt: skip
    all_heads = given[:, :width].unflatten(1, (-1, head))
    want = normed(all_heads[:, : heads + kv_heads], EPS)
    if angles is not None:
        want = rotated(want, positions, angles, 0, False)
    done = x[:, :width].unflatten(1, (-1, head))
    close(done[:, heads : heads + kv_heads], want[:, heads:])
    if queries8 is None:
        close(done[:, :heads], want[:, :heads])
    else:
        close8(queries8.view(tokens, heads, head), want[:, :heads] / 0.001)
        assert torch.equal(done[:, :heads], all_heads[:, :heads])
    assert torch.equal(x[:, (heads + kv_heads) * head :], given[:, (heads + kv_heads) * head :])
    if cache is None or old is None:
        return
    factors = [1.0, 1.0] if scales[0] is None else [0.37, 1.83]
    values = all_heads[:, heads + kv_heads :].double()
    both = torch.cat((want[:, heads:] / factors[0], values / factors[1]), -1)
    rows, before = (
        qkv.cache_values(one, kind).transpose(1, 2).flatten(0, 1) for one in (cache, old)
    )
    check_rows(rows, before, both, slots, close if kind == "auto" else close8)


@on_every_device
@DTYPES
@pytest.mark.parametrize(
    ("head", "rotary", "kind", "wide"),
    [
        (64, 8, "auto", False),
        (64, 64, "fp8", True),
        (128, 64, "auto", True),
        (192, 8, "fp8", False),
        (192, 192, "auto", False),
        (256, 0, "fp8", True),
        (512, 64, "auto", True),
    ],
)
def test_norm_rope_cache(
    where: str, dtype: torch.dtype, head: int, rotary: int, kind: str, wide: bool
) -> None:
    call = caller(where)
    on = On(device_of(where), dtype)
    tokens, heads, kv_heads, block = 11, 3, 2, 7
    width = (heads + 2 * kv_heads) * head
    given = on.randn(tokens, width + 8)
    x = given.clone()[:, :width]
    kept = x.clone()
    weights = [on.randn(head).to(torch.float32 if wide else on.dtype) for _ in range(2)]
    angles = on.angles(max(rotary // 2, 4), torch.float32 if wide else on.dtype)
    positions, slots = on.positions(tokens), on.slots(tokens, 4 * block)
    storage = torch.uint8 if kind == "fp8" else on.dtype
    caches = [on.empty(4, kv_heads, block, head, dtype=storage).transpose(1, 2) for _ in range(2)]
    old = [cache.clone() for cache in caches]
    outs = [on.empty(tokens, count * head) for count in (heads, kv_heads, kv_heads)]
    scales = on.scale(0.37), on.scale(1.83)
    call(
        "fused_qknorm_rope_cache", *outs, x, *weights, *angles.chunk(2, -1), positions, slots,
        *caches, head, heads, kv_heads, rotary // 2, EPS, 1.0, kind, *scales,
    )  # fmt: skip
    assert torch.equal(x, kept)
    parts = x.unflatten(1, (-1, head)).split((heads, kv_heads, kv_heads), dim=1)
    wants = []
    for part, weight in zip(parts[:2], weights, strict=True):
        rounded = normed(part, EPS, weight.double() + 1).to(on.dtype)
        turned = rotated(rounded, positions, angles, 0, True)
        wants.append(turned if rotary else rounded.double())
    wants.append(parts[2].double())
    for out, want in zip(outs, wants, strict=True):
        # The norm is rounded before the rotation: a step of it, turned.
        error = 2.0 ** (-8 if on.dtype == torch.bfloat16 else -11)
        most = want.abs().amax(-1, keepdim=True).clamp_min(1e-3)
        difference = (out.view(want.shape).double() - want).abs()
        assert bool((difference <= 3 * error * most).all())
    assert torch.equal(outs[2].view(parts[2].shape), parts[2])
    for cache, before, out, scale in zip(caches, old, outs[1:], (0.37, 1.83), strict=True):
        rows, others = (qkv.cache_values(one, kind).flatten(0, 1) for one in (cache, before))
        stored = out.view(tokens, kv_heads, head).double()
        if kind == "auto":
            check_rows(rows, others, stored, slots)
        else:
            check_rows(rows, others, stored / scale, slots, close8)
