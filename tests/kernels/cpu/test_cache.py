"""Writing the paged cache and computing slots, per tier, against plain Python indexing."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.cache import kv as reference

ops = torch.ops.vllm_kernels
UNTOUCHED = 7.0


def halves(
    blocks: int, heads: int, block_size: int, head_size: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Key and value cache as the engine makes them: views into one buffer."""
    buffer = torch.full((blocks, heads, 2, block_size, head_size), UNTOUCHED, dtype=dtype)
    assert buffer[:, :, 0].stride(1) == 2 * block_size * head_size
    return buffer[:, :, 0], buffer[:, :, 1]


@pytest.mark.parametrize("isa", ["amx", "vec", "vec16", "neon"])
@pytest.mark.parametrize(
    ("tokens", "heads", "head_size", "block_size"),
    [(1, 8, 128, 128), (7, 2, 64, 16), (33, 1, 80, 32), (5, 3, 7, 3), (0, 2, 64, 16)],
)
def test_reshape_and_cache(
    tier: str,
    dtype: torch.dtype,
    tokens: int,
    heads: int,
    head_size: int,
    block_size: int,
    isa: str,
) -> None:
    blocks = 2 + tokens // block_size
    qkv = torch.randn(tokens, 4 * heads, head_size).to(dtype)
    key, value = qkv[:, heads : 2 * heads], qkv[:, 3 * heads :]
    key_cache, value_cache = halves(blocks, heads, block_size, head_size, dtype)
    slots = torch.randperm(blocks * block_size)[:tokens]
    slots[1::4] = -1
    ops.cpu_attn_reshape_and_cache(key, value, key_cache, value_cache, slots, isa)
    written = {slot: token for token, slot in enumerate(slots.tolist()) if slot >= 0}
    for tokens_in, cached in ((key, key_cache), (value, value_cache)):
        for slot in range(blocks * block_size):
            found = cached[slot // block_size, :, slot % block_size]
            if slot in written:
                assert torch.equal(found, tokens_in[written[slot]])
            else:
                assert bool((found == UNTOUCHED).all())


def test_bits_are_kept(tier: str) -> None:
    """NaN payloads, subnormals and infinities arrive as they are."""
    key = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    key = key.view(64, 4, 256)
    key_cache, value_cache = halves(4, 4, 16, 256, torch.bfloat16)
    ops.cpu_attn_reshape_and_cache(
        key, key.flip(0), key_cache, value_cache, torch.arange(64), "vec"
    )
    bits = key_cache.transpose(1, 2).reshape(64, 4, 256).view(torch.uint16)
    assert torch.equal(bits, key.view(torch.uint16))


def test_padding(tier: str) -> None:
    """Fewer slots than tokens, and fewer tokens than slots: the shorter one counts."""
    for tokens, slots in ((6, 4), (4, 6)):
        key = torch.randn(tokens, 2, 8)
        value = torch.randn(tokens, 2, 16)  # another head size
        key_cache = torch.zeros(2, 2, 4, 8)
        value_cache = torch.zeros(2, 2, 4, 16)
        ops.cpu_attn_reshape_and_cache(
            key, value, key_cache, value_cache, torch.arange(slots), "vec"
        )
        assert torch.equal(key_cache.transpose(1, 2).reshape(8, 2, 8)[:4], key[:4])
        assert torch.equal(value_cache.transpose(1, 2).reshape(8, 2, 16)[:4], value[:4])
        assert not key_cache[1].any()


def test_matches_reference(tier: str, dtype: torch.dtype) -> None:
    key, value = torch.randn(2, 9, 2, 24).to(dtype)
    ours, theirs = (halves(3, 2, 4, 24, dtype) for _ in range(2))
    slots = torch.tensor([11, -1, 0, 1, 2, 7, -1, 5, 4])
    ops.cpu_attn_reshape_and_cache(key, value, *ours, slots, "vec")
    reference.cpu_attn_reshape_and_cache(key, value, *theirs, slots, "vec")
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("cache", ["fp8", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize(("k_scale", "v_scale"), [(1.0, 1.0), (0.3, 7.0)])
def test_floats_of_8_bits(
    tier: str, dtype: torch.dtype, cache: str, k_scale: float, v_scale: float
) -> None:
    """Every number that a float of 8 bits holds, those between two of them, and beyond the last."""
    float8 = torch.float8_e5m2 if cache == "fp8_e5m2" else torch.float8_e4m3fn
    known = torch.arange(256, dtype=torch.uint8).view(float8).double()
    finite = known[known.isfinite()].sort().values
    between = (finite[1:] + finite[:-1]) / 2
    near = torch.cat((between * (1 + 2e-3), between * (1 - 2e-3)))
    special = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e-30, 0.0, -0.0]
    )
    values = torch.cat((finite, between, near, special.double()))
    rows = -(-len(values) // 70)
    values = torch.nn.functional.pad(values, (0, rows * 70 - len(values)))
    # Where a value of the input's type cannot hold it, its neighbour is tried.
    key = (values * k_scale).to(dtype).view(rows, 2, 35)
    value = (values.flip(0) * v_scale).to(dtype).view(rows, 2, 35)
    blocks = -(-rows // 16)
    slots = torch.randperm(blocks * 16)[:rows]
    ours, theirs = (halves(blocks, 2, 16, 35, torch.uint8) for _ in range(2))
    arguments = (slots, "vec", k_scale, v_scale, cache)
    ops.cpu_attn_reshape_and_cache(key, value, *ours, *arguments)
    reference.cpu_attn_reshape_and_cache(key, value, *theirs, *arguments)
    for got, wanted in zip(ours, theirs, strict=True):
        same = got == wanted
        nan = got.view(float8).float().isnan() & wanted.view(float8).float().isnan()
        assert bool((same | nan).all())
    scaled = key.float() / torch.tensor(k_scale)
    expected = scaled.clamp(-finite.max(), finite.max()).to(float8).float()
    found = ours[0].view(float8)[slots // 16, :, slots % 16].float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_cache_bad_input(subtests: pytest.Subtests) -> None:
    key = torch.randn(4, 2, 8)
    key_cache, value_cache = halves(3, 2, 4, 8, torch.float32)
    good = {
        "key": key,
        "value": key.clone(),
        "key_cache": key_cache,
        "value_cache": value_cache,
        "slot_mapping": torch.arange(4),
        "isa": "vec",
        "k_scale": 1.0,
        "v_scale": 1.0,
        "kv_cache_dtype": "auto",
    }
    many = torch.tensor([0, 1, 12, 3])
    codes = torch.zeros(3, 2, 4, 8, dtype=torch.uint8)
    coded = {"key_cache": codes, "value_cache": codes.clone(), "kv_cache_dtype": "fp8"}
    cases = [
        ({"key": key.double()}, "key is float64, want float32 or bfloat16 or float16"),
        ({"key": key[0]}, r"key has shape \[2, 8\], want 3 dimensions"),
        ({"key": torch.randn(4, 8, 2).mT}, "key has stride 2 in its last dimension, want 1"),
        ({"value": key.half()}, "value is float16, want float32 as key"),
        ({"value": key[:3]}, r"value has shape \[3, 2, 8\], want 4 in dimension 0"),
        ({"key_cache": key_cache.bfloat16()}, "key_cache is bfloat16, want float32 as key"),
        ({"key_cache": key_cache[:, :1]}, "key_cache has shape .* want 2 in dimension 1"),
        ({"key_cache": key_cache[..., :4]}, "key_cache has shape .* want 8 in dimension 3"),
        ({"key_cache": key_cache[0]}, "key_cache has shape .* want 4 dimensions"),
        ({"value_cache": value_cache[:2]}, "value_cache has shape .* want 3 in dimension 0"),
        ({"value_cache": value_cache[:, :, :2]}, "value_cache has shape .* want 4 in dimension 2"),
        ({"slot_mapping": torch.arange(4).int()}, "slot_mapping is int32, want int64"),
        ({"slot_mapping": torch.arange(8)[::2]}, "slot_mapping is not contiguous"),
        ({"slot_mapping": many}, "slot_mapping has 12 at index 2, want -1 .* or 0 to 11"),
        ({"slot_mapping": -many}, "slot_mapping has -12 at index 2, want -1 .* or 0 to 11"),
        ({"isa": "sse"}, 'isa is "sse", want amx, vec, vec16, neon or vsx'),
        ({"kv_cache_dtype": "int4"}, 'kv_cache_dtype is "int4", want auto, fp8, fp8_e4m3 or'),
        ({"kv_cache_dtype": "fp8"}, "key_cache is float32, want uint8 or float8_e4m3fn"),
        ({"kv_cache_dtype": "fp8_e5m2"}, "key_cache is float32, want uint8"),
        ({**coded, "k_scale": 0.0}, "k_scale is 0, want a positive number"),
        ({**coded, "v_scale": float("nan")}, "v_scale is -?nan, want a positive number"),
    ]
    for change, message in cases:
        with (
            subtests.test(message),
            pytest.raises(RuntimeError, match="cpu_attn_reshape_and_cache: .*" + message),
        ):
            ops.cpu_attn_reshape_and_cache(*{**good, **change}.values())
    assert bool((key_cache == UNTOUCHED).all())


@pytest.mark.parametrize("block_size", [1, 16, 100, 128])
def test_slot_mapping(block_size: int) -> None:
    """Prefill, decode, chunks and a request without tokens; the rest of the buffer stays."""
    lengths, computed = [300, 1, 0, 1, 17], [0, 40, 5, 511, 100]
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    max_blocks = 600 // block_size + 1
    wide = torch.randint(0, 1000, (8, max_blocks + 3), dtype=torch.int32)
    table = wide[:, :max_blocks]
    positions = torch.cat([torch.arange(c, c + n) for c, n in zip(computed, lengths, strict=True)])
    slots = torch.full((4096,), -5)
    ops.compute_slot_mapping_kernel_impl(starts, positions, table, slots, block_size)
    token = 0
    for request, (first, length) in enumerate(zip(computed, lengths, strict=True)):
        for position in range(first, first + length):
            block = int(table[request, position // block_size])
            assert int(slots[token]) == block * block_size + position % block_size
            token += 1
    assert bool((slots[token:] == -5).all())
    other = torch.full((4096,), -5)
    reference.compute_slot_mapping_kernel_impl(starts, positions, table, other, block_size)
    assert torch.equal(slots, other)


def test_slot_mapping_any_order() -> None:
    """Positions that jump and go back, a slot beyond 2^31, and no request at all."""
    starts = torch.tensor([0, 4], dtype=torch.int32)
    positions = torch.tensor([33, 0, 17, 16])
    table = torch.tensor([[3, 2**31 - 1, 5]], dtype=torch.int32)
    slots = torch.zeros(4, dtype=torch.int64)
    ops.compute_slot_mapping_kernel_impl(starts, positions, table, slots, 16)
    assert slots.tolist() == [81, 48, (2**31 - 1) * 16 + 1, (2**31 - 1) * 16]
    none = torch.zeros(1, dtype=torch.int32)
    ops.compute_slot_mapping_kernel_impl(none, positions[:0], table[:0], slots[:0], 16)


def test_slot_mapping_bad_input(subtests: pytest.Subtests) -> None:
    good = {
        "query_start_loc": torch.tensor([0, 2, 4], dtype=torch.int32),
        "positions": torch.tensor([0, 1, 30, 31]),
        "block_table": torch.tensor([[0, 1], [2, 3]], dtype=torch.int32),
        "slot_mapping": torch.zeros(4, dtype=torch.int64),
        "block_size": 16,
    }
    int32 = torch.int32
    cases = [
        ({"query_start_loc": torch.tensor([0, 2, 4])}, "query_start_loc is int64, want int32"),
        ({"query_start_loc": torch.tensor([], dtype=int32)}, "query_start_loc is empty"),
        ({"query_start_loc": torch.tensor([0, 3, 2], dtype=int32)}, "goes from 3 to 2 at index 1"),
        ({"query_start_loc": torch.tensor([-1, 3], dtype=int32)}, "goes from -1 to 3 at index 0"),
        ({"query_start_loc": torch.tensor([0, 5], dtype=int32)}, "ends at 5, want at most the 4"),
        ({"query_start_loc": torch.zeros(4, dtype=int32)}, "block_table has shape .* 3 requests"),
        ({"positions": torch.tensor([0, 1, 2, 3], dtype=int32)}, "positions is int32, want int64"),
        (
            {"positions": torch.tensor([0, 1, 2, 32])},
            "positions has 32 for request 1, want 0 to",
        ),
        (
            {"positions": torch.tensor([0, -1, 2, 3])},
            "positions has -1 for request 0, want 0 to",
        ),
        ({"positions": torch.tensor([0, -(2**63), 2, 3])}, "positions has -9223372036854775808"),
        ({"positions": torch.tensor([[0, 1, 2, 3]])}, "positions has shape .* want 1 dimensions"),
        ({"block_table": torch.zeros(2, 2)}, "block_table is float32, want int32"),
        ({"block_table": torch.tensor([[0, 1], [2, -3]], dtype=int32)}, r"\[1, 1\] is -3, want 0"),
        ({"block_table": torch.zeros(4, 2, dtype=int32).T}, "block_table has stride 2 in its last"),
        ({"slot_mapping": torch.zeros(4)}, "slot_mapping is float32, want int64"),
        ({"slot_mapping": torch.zeros(3, dtype=torch.int64)}, "ends at 4, want at most the 3"),
        ({"slot_mapping": torch.arange(8)[::2]}, "slot_mapping is not contiguous"),
        ({"block_size": 0}, "block_size is 0, want more than 0"),
    ]
    for change, message in cases:
        with (
            subtests.test(message),
            pytest.raises(RuntimeError, match="compute_slot_mapping_kernel_impl: .*" + message),
        ):
            ops.compute_slot_mapping_kernel_impl(*{**good, **change}.values())
