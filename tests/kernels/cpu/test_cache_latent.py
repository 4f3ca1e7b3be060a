"""concat_and_cache_mla_cpu, per tier, against plain indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

ops = torch.ops.vllm_kernels
UNTOUCHED = 7.0


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("tokens", "rank", "rope", "block_size"),
    [(1, 512, 64, 128), (37, 512, 64, 16), (33, 7, 3, 3), (0, 64, 32, 16), (5, 8, 0, 4)],
)
def test_rows_are_written(
    tier: str,
    dtype: torch.dtype,
    tokens: int,
    rank: int,
    rope: int,
    block_size: int,
    index: torch.dtype,
) -> None:
    blocks = 2 + tokens // block_size
    latent = torch.randn(tokens, rank + 5).to(dtype)[:, :rank]
    k_pe = torch.randn(tokens, 2, rope).to(dtype)[:, 1:]
    # Rows with a gap behind each.
    cache = torch.full((blocks, block_size, rank + rope + 8), UNTOUCHED, dtype=dtype)
    slots = torch.randperm(blocks * block_size)[:tokens].to(index)
    slots[1::4] = -1
    wanted = cache.clone()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            row = torch.cat((latent[token], k_pe[token, 0]))
            wanted[slot // block_size, slot % block_size, : rank + rope] = row
    ops.concat_and_cache_mla_cpu(latent, k_pe, cache[..., : rank + rope], slots)
    assert torch.equal(cache, wanted)
    cache.fill_(UNTOUCHED)
    ops.concat_and_cache_mla_cpu(latent, k_pe[:, 0], cache[..., : rank + rope], slots)
    assert torch.equal(cache, wanted)


def test_bits_are_kept(tier: str) -> None:
    """NaN payloads, subnormals and infinities arrive as they are."""
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    codes = codes.view(64, 1024)
    cache = torch.zeros(4, 16, 1024, dtype=torch.bfloat16)
    ops.concat_and_cache_mla_cpu(codes[:, :1000], codes[:, 1000:], cache, torch.arange(64))
    assert torch.equal(cache.view(64, 1024).view(torch.int16), codes.view(torch.int16))


def test_padding_has_no_slot(tier: str) -> None:
    cache = torch.zeros(2, 4, 6)
    for tokens, slots in ((3, 5), (5, 3)):
        ops.concat_and_cache_mla_cpu(
            torch.ones(tokens, 4), torch.ones(tokens, 2), cache, torch.arange(slots)
        )
    assert bool((cache.view(8, 6)[:3] == 1).all())
    assert not cache.view(8, 6)[3:].any()


BAD: dict[str, dict[str, Any]] = {
    "kv_c_normed is float64": {"kv_c_normed": torch.zeros(3, 4).double()},
    "kv_c_normed has shape": {"kv_c_normed": torch.zeros(3, 1, 4)},
    "k_pe is float16, want float32 as kv_c_normed": {"k_pe": torch.zeros(3, 2).half()},
    "k_pe has shape .*, want 3 in dimension 0": {"k_pe": torch.zeros(2, 2)},
    "k_pe has shape .*, want 1 in dimension 1": {"k_pe": torch.zeros(3, 2, 2)},
    "kv_cache is bfloat16, want float32": {"kv_cache": torch.zeros(2, 4, 6).bfloat16()},
    "kv_cache has shape .*, want 6 in dimension 2": {"kv_cache": torch.zeros(2, 4, 7)},
    "slot_mapping is float32, want int32": {"slot_mapping": torch.zeros(3)},
    "slot_mapping has 8 at index 2, want -1 .skipped. or 0 to 7": {
        "slot_mapping": torch.tensor([0, 1, 8])
    },
    "slot_mapping has -2 at index 0": {"slot_mapping": torch.tensor([-2, 1, 2])},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_sentence(message: str) -> None:
    cache = torch.full((2, 4, 6), UNTOUCHED)
    args: dict[str, Any] = {
        "kv_c_normed": torch.zeros(3, 4),
        "k_pe": torch.zeros(3, 2),
        "kv_cache": cache,
        "slot_mapping": torch.arange(3),
    }
    with pytest.raises(RuntimeError, match=f"^concat_and_cache_mla_cpu: {message}"):
        ops.concat_and_cache_mla_cpu(**{**args, **BAD[message]})
    assert bool((cache == UNTOUCHED).all()), "a refused call must not write"
