"""Caches of 8 bits: keys and values come out as they are stored, times their scales."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from .attention import DECODE, FLOAT8, Problem, make


@pytest.mark.parametrize("cache", FLOAT8)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(DECODE),
        Problem(((3, 3), (70, 200), (1, 64)), head_size=80),
        Problem(((1, 129), (5, 40)), heads=32, kv_heads=1, head_size=128, block_size=128),
        Problem(((20, 90), (1, 500)), window=33, softcap=5.0, sinks=torch.float32),
        Problem(((9, 70), (1, 31)), alibi=True, dynamic_causal=True, head_size=24, block_size=32),
    ],
)
def test_caches_of_8_bits(tier: str, dtype: torch.dtype, problem: Problem, cache: str) -> None:
    """NaN stands in every slot that no query sees, as everywhere here."""
    make(replace(problem, cache=cache), dtype).check()


@pytest.mark.parametrize("cache", ["fp8_e4m3", "fp8_e5m2"])
def test_every_code_of_8_bits(tier: str, dtype: torch.dtype, cache: str) -> None:
    """One key: its value comes out as it is stored, NaN and infinities too."""
    batch = make(
        Problem(((1, 1), (40, 40)), heads=1, kv_heads=1, head_size=256, cache=cache), dtype
    )
    codes = torch.arange(256, dtype=torch.uint8)
    block = int(batch.args["block_table"][0, 0])
    batch.args["key_cache"][block, 0, 0] = 0
    batch.args["value_cache"][block, 0, 0] = codes
    found = batch.run(v_scale=0.5)[0, 0].float()
    expected = (codes.view(FLOAT8[cache]).float() * 0.5).to(dtype).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_float8_tensors_are_served_as_bytes_are(tier: str) -> None:
    batch = make(Problem(((1, 40), (12, 50)), cache="fp8"), torch.bfloat16)
    expected = batch.run().clone()
    for name in ("key_cache", "value_cache"):
        batch.args[name] = batch.args[name].view(torch.float8_e4m3fn)
    assert torch.equal(batch.run(), expected)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_of_a_cache_are_positive_numbers(scale: float) -> None:
    batch = make(Problem(cache="fp8"), torch.float32)
    with pytest.raises(RuntimeError, match=r"v_scale is \S+, want a positive number"):
        batch.run(v_scale=scale)
    plain = make(Problem(), torch.float32)
    plain.args |= {"k_scale": scale, "v_scale": scale}
    assert not plain.run().isnan().any(), "a plain cache has no scales"
