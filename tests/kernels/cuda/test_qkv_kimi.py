"""Kimi K3's queries, keys and latents on their way into attention, against float64.

Each test runs on the GPU, on the host by an emulation, and by the reference.
"""

from __future__ import annotations

import pytest
import torch

from ..common.qkv import FLOAT8, On, check_rows, close, close8, placed, rotated, tiled
from .qkv import caller, device_of, on_every_device

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
ROTATED = pytest.mark.parametrize("turned", [True, False], ids=["rotated", "plain"])
FORMATS = pytest.mark.parametrize("kind", ["rows", "fp8", "ds_mla"])
BLOCK, BLOCKS = 8, 4
OP = "fused_kimi_k3_mla"


class Latents:
    """New tokens and a cache of that format."""

    def __init__(self, on: On, tokens: int, kind: str, turned: bool) -> None:
        self.kind = kind
        self.kv_c, self.k_pe = on.randn(tokens, 512), on.randn(tokens, 64)
        self.kv_c[:, 128:256] *= 1e-3
        self.slots = on.slots(tokens, BLOCK * BLOCKS)
        entry = 656 if kind == "ds_mla" else 576
        types = {"rows": on.dtype, "fp8": FLOAT8, "ds_mla": torch.uint8}
        self.cache = on.empty(BLOCKS, BLOCK, entry, dtype=types[kind])
        self.before = self.cache.clone()
        self.positions = on.positions(tokens) if turned else None
        self.angles = on.angles(32) if turned else None
        self.pe = self.turn(self.k_pe.unsqueeze(1)).squeeze(1)

    def turn(self, heads: torch.Tensor) -> torch.Tensor:
        if self.angles is None or self.positions is None:
            return heads.double()
        return rotated(heads, self.positions, self.angles, heads.shape[-1] - 64, False)

    def check(self, scale: float = 1.0) -> None:
        rows, old = self.cache.flatten(0, 1), self.before.flatten(0, 1)
        want = torch.cat((self.kv_c.double(), self.pe), -1) * scale
        if self.kind != "ds_mla":
            check_rows(rows, old, want, self.slots, close if self.kind == "rows" else close8)
            return
        for token, slot in placed(self.slots, len(want), len(rows)):
            values, powers, pe = rows[slot].split((512, 16, 128))
            tiled(values.view(FLOAT8), powers.clone().view(torch.float32), self.kv_c[token], 128)
            close(pe.clone().view(self.kv_c.dtype), self.pe[token])


@on_every_device
@DTYPES
@FORMATS
@ROTATED
@pytest.mark.parametrize(("tokens", "heads"), [(1, 1), (13, 3)])
def test_decode(
    where: str, dtype: torch.dtype, kind: str, turned: bool, tokens: int, heads: int
) -> None:
    call, on = caller(where), On(device_of(where), dtype)
    new = Latents(on, tokens, kind, turned)
    nope, pe = on.randn(tokens, heads, 512), on.randn(tokens, heads, 64)
    want = torch.cat((nope.double(), new.turn(pe)), -1)
    query = on.empty(tokens, heads, 576, dtype=FLOAT8 if kind == "fp8" else dtype)
    names = {"rows": "kv_cache_insert", "fp8": "kv_cache_fp8_insert", "ds_mla": "ds_mla_insert"}
    scales = [on.scale(3.7), on.scale(0.6)] if kind == "fp8" else []
    args = (nope, pe, new.kv_c, new.k_pe, query, new.cache, new.slots, *scales, BLOCK)
    call(f"{OP}_decode_q_concat_{names[kind]}", *args, new.positions, new.angles)
    if kind == "fp8":
        close8(query, want * 3.7)
        new.check(0.6)
    else:
        close(query, want)
        new.check()


@on_every_device
@DTYPES
@pytest.mark.parametrize("kind", ["rows", "ds_mla"])
@ROTATED
def test_prefill(where: str, dtype: torch.dtype, kind: str, turned: bool) -> None:
    call, on = caller(where), On(device_of(where), dtype)
    tokens, heads = 13, 3
    new = Latents(on, tokens, kind, turned)
    q, k_nope = on.randn(tokens, heads, 192), on.randn(tokens, heads, 256)[..., :128]
    want_q = new.turn(q)
    key = on.empty(tokens, heads, 192)
    op = f"{OP}_key_concat_{'kv_cache' if kind == 'rows' else 'ds_mla'}_insert"
    args = (q, k_nope, new.k_pe, new.kv_c, key, new.cache, new.slots, BLOCK)
    call(op, *args, new.positions, new.angles)
    close(q, want_q)
    close(key, torch.cat((k_nope.double(), new.pe.unsqueeze(1).expand(-1, heads, -1)), -1))
    new.check()


@on_every_device
@DTYPES
@ROTATED
def test_prefill_fp8(where: str, dtype: torch.dtype, turned: bool) -> None:
    call, on = caller(where), On(device_of(where), dtype)
    tokens, heads = 13, 3
    new = Latents(on, tokens, "fp8", turned)
    q, both = on.randn(tokens, heads, 192), on.randn(tokens, heads, 256)
    k_nope, v = both.split((128, 128), dim=-1)
    given = q.clone()
    outs = [on.empty(tokens, heads, width, dtype=FLOAT8) for width in (192, 192, 128)]
    factors = (2.0, 0.7, 900.0, 0.3)
    scales = [on.scale(factor) for factor in factors]
    op = f"{OP}_qkv_quant_kv_cache_fp8_insert"
    args = (q, k_nope, new.k_pe, new.kv_c, v, *outs, new.cache, new.slots, *scales, BLOCK)
    call(op, *args, new.positions, new.angles)
    assert torch.equal(q, given)
    key = torch.cat((k_nope.double(), new.pe.unsqueeze(1).expand(-1, heads, -1)), -1)
    for out, want, factor in zip(outs, (new.turn(q), key, v.double()), factors, strict=False):
        close8(out, want * factor)
    new.check(0.3)


@on_every_device
@DTYPES
@pytest.mark.parametrize("tokens", [0, 5])
def test_context(where: str, dtype: torch.dtype, tokens: int) -> None:
    """Halves of one projection, and a slice of gathered latents, in 16 bits or as float8."""
    call, on = caller(where), On(device_of(where), dtype)
    heads = 3
    k_nope, v = on.randn(tokens, heads, 256).split((128, 128), dim=-1)
    gathered = on.randn(tokens, 576)
    k_pe, every_byte = gathered[:, 512:], torch.arange(tokens * 576) % 256
    key = on.empty(tokens, heads, 192)
    call(f"{OP}_kv_concat", k_nope, k_pe, key)
    assert torch.equal(key[..., :128], k_nope)
    assert torch.equal(key[..., 128:], k_pe.unsqueeze(1).expand(-1, heads, -1))
    small = every_byte.to(torch.uint8).view(FLOAT8).view(tokens, 576).to(on.device)[:, 512:]
    for pe in (k_pe, small):
        outs = [on.empty(tokens, heads, width, dtype=FLOAT8) for width in (192, 128)]
        call(f"{OP}_kv_concat_quant_fp8", k_nope, pe, v, *outs)
        wants = k_nope.to(FLOAT8), pe.to(FLOAT8).unsqueeze(1).expand(-1, heads, -1), v.to(FLOAT8)
        for out, want in zip((*outs[0].split((128, 64), dim=-1), outs[1]), wants, strict=True):
            assert torch.equal(out.view(torch.uint8), want.contiguous().view(torch.uint8))
