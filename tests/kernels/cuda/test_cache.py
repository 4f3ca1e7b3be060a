"""The paged cache: writes, gathers and copies of blocks, bit by bit against the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference.cache import kv as reference

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
FORMATS = ["auto", "fp8", "fp8_e5m2"]


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(shape, device="cuda") * 3).to(dtype)


def empty_cache(shape: tuple[int, ...], dtype: torch.dtype, kv_cache_dtype: str) -> torch.Tensor:
    if kv_cache_dtype != "auto":
        return torch.full(shape, 0x2A, dtype=torch.uint8, device="cuda")
    return torch.full(shape, 7.0, dtype=dtype, device="cuda")


def some_slots(tokens: int, blocks: int, block_size: int) -> torch.Tensor:
    """Each token's own, some of them padding or outside of the cache."""
    slots = torch.randperm(blocks * block_size, device="cuda")[:tokens]
    slots[::5] = -1
    slots[3::11] = blocks * block_size + 3
    return slots


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    kinds = {2: torch.int16, 4: torch.int32}
    kind = kinds.get(actual.element_size(), torch.uint8)
    assert torch.equal(actual.contiguous().view(kind), expected.contiguous().view(kind))


# tokens, heads, head size, block size
SHAPES = [(1, 1, 64, 16), (17, 4, 128, 16), (33, 3, 80, 8), (5, 2, 33, 4), (300, 8, 256, 32)]
MANY = (2100, 8, 256, 32)  # a thread takes two neighbouring vectors


@pytest.mark.parametrize("shape", [*SHAPES, MANY])
@pytest.mark.parametrize("kv_cache_dtype", FORMATS)
@pytest.mark.parametrize("layout", ["dense", "halves", "heads-first"])
@pytest.mark.parametrize("by_head", [False, True], ids=["one-scale", "head-scales"])
def test_reshape_and_cache_flash(
    dtype: torch.dtype, shape: tuple[int, ...], kv_cache_dtype: str, layout: str, by_head: bool
) -> None:
    """Caches of their own, halves of one tensor's last dimension, and with heads before slots."""
    tokens, heads, head, block = shape
    blocks = tokens // block + 3
    qkv = randn(tokens + 2, 3 * heads * head, dtype=dtype)
    key = qkv[:, : heads * head].unflatten(-1, (heads, head))
    value = qkv[:, heads * head : 2 * heads * head].unflatten(-1, (heads, head))
    slots = some_slots(tokens, blocks, block)  # fewer than there are tokens
    scales = torch.rand(2, heads if by_head else 1, device="cuda") + 0.5
    memories = []
    for module in (ops, reference):
        if layout == "dense":
            memory = empty_cache((2, blocks, block, heads, head), dtype, kv_cache_dtype)
            caches = memory[0], memory[1]
        elif layout == "halves":
            memory = empty_cache((blocks, heads, block, 2 * head), dtype, kv_cache_dtype)
            swapped = memory.transpose(1, 2)
            caches = swapped[..., :head], swapped[..., head:]
        else:
            memory = empty_cache((blocks, 2, heads, block, head), dtype, kv_cache_dtype)
            caches = memory[:, 0].transpose(1, 2), memory[:, 1].transpose(1, 2)
        module.reshape_and_cache_flash(
            key, value, *caches, slots, kv_cache_dtype, scales[0], scales[1]
        )
        memories.append(memory)
    same(*memories)


@pytest.mark.parametrize("tokens", [260, MANY[0]])
@pytest.mark.parametrize("scale", [0.37, 1.0, 2e-5, 1e-37, 1e35])
def test_every_16_bit_value(tokens: int, scale: float) -> None:
    """Infinities, values that overflow and NaN, beside ordinary ones and by themselves."""
    heads, head, block = 1 if tokens == 260 else MANY[1], 256, 32
    bits = torch.arange(tokens * heads * head, device="cuda").to(torch.int16)
    slots = torch.arange(tokens, device="cuda")
    scales = torch.tensor([scale, 1.0], device="cuda")
    for dtype in (torch.bfloat16, torch.float16):
        key = bits.view(dtype).view(tokens, heads, head)
        value = key.flatten()[torch.randperm(key.numel(), device="cuda")].view_as(key)
        found = []
        for module in (ops, reference):
            caches = empty_cache((2, tokens // block + 1, block, heads, head), dtype, "fp8")
            module.reshape_and_cache_flash(
                key, value, caches[0], caches[1], slots, "fp8", scales[:1], scales[1:]
            )
            found.append(caches.view(FLOAT8).float())
        assert torch.equal(found[0].isnan(), found[1].isnan())
        assert torch.equal(found[0].nan_to_num(), found[1].nan_to_num())


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("kv_cache_dtype", FORMATS)
def test_reshape_and_cache(dtype: torch.dtype, shape: tuple[int, ...], kv_cache_dtype: str) -> None:
    tokens, heads, head, block = shape
    blocks, x = tokens // block + 3, 16 if kv_cache_dtype != "auto" else 16 // dtype.itemsize
    key, value = randn(tokens, 2 * heads, head, dtype=dtype).split(heads, 1)
    slots = some_slots(tokens, blocks, block)
    scales = torch.rand(2, 1, device="cuda") + 0.5
    outputs = []
    for module in (ops, reference):
        keys = empty_cache((blocks, heads, head // x, block, x), dtype, kv_cache_dtype)
        values = empty_cache((blocks, heads, head, block), dtype, kv_cache_dtype)
        module.reshape_and_cache(
            key, value, keys, values, slots, kv_cache_dtype, scales[0], scales[1]
        )
        outputs.append((keys, values))
    for ours, theirs in zip(*outputs, strict=True):
        same(ours, theirs)


def test_extreme_values() -> None:
    values = [float("inf"), float("-inf"), float("nan"), 3e38, -3e38, 1e-40, -0.0, 448.0, 57344.0]
    key = torch.tensor(values, dtype=torch.bfloat16, device="cuda").view(-1, 1, 1)
    slots = torch.arange(len(values), device="cuda")
    one = torch.ones(1, device="cuda")
    for kind in ("fp8", "fp8_e5m2"):
        caches = []
        for module in (ops, reference):
            cache = torch.zeros(1, len(values), 1, 1, dtype=torch.uint8, device="cuda")
            module.reshape_and_cache_flash(key, key, cache, cache.clone(), slots, kind, one, one)
            caches.append(cache.flatten())
        # A NaN has several encodings.
        numbers = torch.arange(len(values), device="cuda") != 2
        assert torch.equal(caches[0][numbers], caches[1][numbers])
        kept = caches[0].view(FLOAT8 if kind == "fp8" else torch.float8_e5m2)
        assert bool(kept.float()[2].isnan())


@pytest.mark.parametrize("kv_cache_dtype", [*FORMATS, "fp8_ds_mla"])
@pytest.mark.parametrize("tokens", [1, 17, 300])
def test_concat_and_cache_mla(dtype: torch.dtype, kv_cache_dtype: str, tokens: int) -> None:
    if kv_cache_dtype == "fp8_ds_mla" and dtype == torch.float32:
        pytest.skip("the packed format is of 16-bit dtypes")
    sizes = [(512, 64)] if kv_cache_dtype == "fp8_ds_mla" else [(512, 64), (256, 32), (50, 6)]
    for rank, rope in sizes:
        latents = randn(tokens, rank + 8, dtype=dtype)[:, :rank]
        latents[:1] = 0.0
        ropes = randn(tokens, rope, dtype=dtype)
        blocks, width = tokens // 16 + 2, 656 if kv_cache_dtype == "fp8_ds_mla" else rank + rope
        slots, scale = some_slots(tokens, blocks, 16), torch.tensor([0.7], device="cuda")
        caches = []
        for module in (ops, reference):
            cache = empty_cache((blocks, 16, width), dtype, kv_cache_dtype)
            module.concat_and_cache_mla(latents, ropes, cache, slots, kv_cache_dtype, scale)
            caches.append(cache)
        same(*caches)


@pytest.mark.parametrize("kv_cache_dtype", FORMATS)
@pytest.mark.parametrize("shared", [False, True], ids=["slots", "one"])
def test_concat_and_cache_mla_grouped(
    dtype: torch.dtype, kv_cache_dtype: str, shared: bool
) -> None:
    """Caches are alike but for their addresses, of which one is not aligned to vectors."""
    layers, tokens, blocks = 3, 37, 5
    scales = torch.tensor([0.7, 1.0, 2.5], device="cuda")
    for rank, rope, gap in ((512, 64, 0), (256, 32, 8), (50, 6, 1)):
        entry = rank + rope
        latents = randn(layers, tokens, rank + 8, dtype=dtype)[..., :rank]
        ropes = randn(layers, tokens, rope, dtype=dtype)
        slots = torch.stack([some_slots(tokens, blocks, 16) for _ in range(layers)])
        slots = slots.where(slots < blocks * 16, -1)
        slots = slots[:1].expand(layers, -1) if shared else slots
        groups = []
        for _ in range(2):
            whole = [
                empty_cache((blocks, 16, entry + gap), dtype, kv_cache_dtype) for _ in range(layers)
            ]
            shifted = empty_cache((blocks * 16 * (entry + gap) + 1,), dtype, kv_cache_dtype)
            whole[1] = shifted[1:].view(blocks, 16, entry + gap)
            groups.append([cache[..., :entry] for cache in whole])
        ours, theirs = groups
        addresses = torch.tensor([cache.data_ptr() for cache in ours], device="cuda")
        strides = ours[0].stride()[:2]
        ops.concat_and_cache_mla_grouped(
            latents, ropes, addresses, slots, 16, *strides, scales, kv_cache_dtype
        )
        for layer, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            scale = scales[layer : layer + 1]
            reference.concat_and_cache_mla(
                latents[layer], ropes[layer], other, slots[layer], kv_cache_dtype, scale
            )
            same(one, other)


@pytest.mark.no_gpu
def test_the_reference_of_grouped_caches_writes_to_addresses() -> None:
    latents, ropes = torch.randn(2, 3, 8), torch.randn(2, 3, 4)
    slots = torch.tensor([[5, -1, 0], [1, 2, 3]])
    ours, theirs = torch.zeros(2, 2, 2, 4, 12).unbind()
    addresses = torch.tensor([cache.data_ptr() for cache in ours])
    reference.concat_and_cache_mla_grouped(latents, ropes, addresses, slots, 4, 48, 12)
    for layer in range(2):
        reference.concat_and_cache_mla(
            latents[layer], ropes[layer], theirs[layer], slots[layer], "auto", torch.ones(())
        )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8", "fp8_ds_mla"])
@pytest.mark.parametrize("neox", [False, True], ids=["pairs", "halves"])
@pytest.mark.parametrize("float_angles", [False, True], ids=["same", "float"])
def test_concat_and_cache_mla_rope_fused(
    dtype: torch.dtype, kv_cache_dtype: str, neox: bool, float_angles: bool
) -> None:
    packed = kv_cache_dtype == "fp8_ds_mla"
    if packed and dtype == torch.float32:
        pytest.skip("the packed format is of 16-bit dtypes")
    tokens, heads, rank, rope, blocks = 37, 5, 512, 64, 4
    positions = torch.randint(-2, 102, (tokens,), device="cuda")  # some that the cache has not
    angles = torch.randn(100, rope, device="cuda").to(torch.float32 if float_angles else dtype)
    slots, scale = some_slots(tokens, blocks, 16), torch.tensor([0.7], device="cuda")
    latents = randn(tokens, rank, dtype=dtype)
    query = randn(tokens, heads + 1, rope + 8, dtype=dtype)
    keys = randn(tokens, rope + 8, dtype=dtype)
    shape = (blocks, 16, 656 if packed else rank + rope)
    turned = []
    for module in (ops, reference):
        q, k = query.clone(), keys.clone()
        cache = empty_cache(shape, dtype, kv_cache_dtype)
        part, shared = q[:, 1:, 8:], k[:, :rope]
        module.concat_and_cache_mla_rope_fused(
            positions, part, shared, latents, angles, neox, slots, cache, kv_cache_dtype, scale
        )
        expected = empty_cache(shape, dtype, kv_cache_dtype)
        reference.concat_and_cache_mla(latents, shared, expected, slots, kv_cache_dtype, scale)
        same(cache, expected)
        turned.append((q, k))
    for ours, theirs in zip(*turned, strict=True):
        bound = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
        torch.testing.assert_close(ours, theirs, rtol=bound, atol=bound)
    assert not torch.equal(turned[0][0], query)


def test_a_refused_fused_write_has_turned_nothing(dtype: torch.dtype) -> None:
    query, keys = randn(8, 5, 64, dtype=dtype), randn(8, 64, dtype=dtype)
    before = query.clone(), keys.clone()
    with pytest.raises(RuntimeError, match="kv_cache_dtype"):
        ops.concat_and_cache_mla_rope_fused(
            torch.arange(8, device="cuda"),
            query,
            keys,
            randn(8, 512, dtype=dtype),
            randn(100, 64, dtype=dtype),
            True,
            torch.arange(8, device="cuda"),
            empty_cache((4, 16, 576), dtype, "auto"),
            "fp9",
            torch.ones(1, device="cuda"),
        )
    torch.cuda.synchronize()
    assert torch.equal(query, before[0])
    assert torch.equal(keys, before[1])


def test_concat_mla_q(dtype: torch.dtype) -> None:
    for tokens, heads, nope, rope in ((1, 1, 512, 64), (17, 5, 512, 64), (3, 2, 30, 7)):
        latents = randn(heads, tokens, nope, dtype=dtype).transpose(0, 1)
        ropes = randn(tokens, heads, rope + 5, dtype=dtype)[..., :rope]
        out = torch.full((tokens, heads, nope + rope), 9.0, dtype=dtype, device="cuda")
        ops.concat_mla_q(latents, ropes, out)
        same(out, torch.cat((latents, ropes), -1))


def test_concat_mla_q_leaves_padded_heads(dtype: torch.dtype) -> None:
    """Engines from 0.33 on give as many heads as the attention that follows takes."""
    latents, ropes = randn(5, 16, 512, dtype=dtype), randn(5, 16, 64, dtype=dtype)
    out = torch.full((5, 64, 576), 9.0, dtype=dtype, device="cuda")
    ops.concat_mla_q(latents, ropes, out)
    same(out[:, :16], torch.cat((latents, ropes), -1))
    assert bool((out[:, 16:] == 9.0).all())
    with pytest.raises(
        RuntimeError, match=r"q_out has shape \[5, 8, 576\], want at least 16 heads"
    ):
        ops.concat_mla_q(latents, ropes, out[:, :8])


def sequences(lengths: list[int], block: int) -> tuple[torch.Tensor, ...]:
    """cu_seq_lens, token_to_seq, block_table of pages in random order, starts."""
    counts = torch.tensor(lengths)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int().cuda()
    owners = torch.arange(len(lengths)).repeat_interleave(counts).int().cuda()
    pages = max(lengths) // block + 3
    table = torch.randperm(len(lengths) * pages).view(len(lengths), pages).int().cuda()
    offsets = torch.randint(0, 2 * block, (len(lengths),)).int().cuda()
    return starts, owners, table, offsets


@pytest.mark.parametrize("entry", [576, 320, 30])
@pytest.mark.parametrize("kv_cache_dtype", FORMATS)
@pytest.mark.parametrize("moved", [False, True], ids=["whole", "from-starts"])
def test_gathers(dtype: torch.dtype, entry: int, kv_cache_dtype: str, moved: bool) -> None:
    lengths = [5, 0, 70, 1, 33]
    starts, owners, table, offsets = sequences(lengths, 16)
    total, begin = sum(lengths), offsets if moved else None
    wide = randn(table.numel(), 16, entry + 4, dtype=torch.float32)
    if kv_cache_dtype == "auto":
        src = wide.to(dtype)[..., :entry]
    else:
        kind = FLOAT8 if kv_cache_dtype == "fp8" else torch.float8_e5m2
        src = wide.to(kind).view(torch.uint8)[..., :entry]
    scale = torch.tensor([0.3], device="cuda")
    outputs = []
    for module in (ops, reference):
        dst = torch.full((total + 3, entry), 9.0, dtype=dtype, device="cuda")
        module.gather_and_maybe_dequant_cache(
            src, dst, table, starts, owners, total, kv_cache_dtype, scale, begin
        )
        copied = torch.full((total + 3, entry), 9, device="cuda").to(src.dtype)
        module.cp_gather_cache(src, copied, table, starts, len(lengths), begin)
        outputs.append((dst, copied))
    for ours, theirs in zip(*outputs, strict=True):
        same(ours, theirs)


def test_gather_skips_what_the_cache_lacks() -> None:
    starts, _, table, _ = sequences([40], 16)
    src = randn(table.numel(), 16, 64, dtype=torch.bfloat16)
    table[0, 1] = 1000
    dst = torch.full((40, 64), 9.0, dtype=torch.bfloat16, device="cuda")
    ops.cp_gather_cache(src, dst, table[:, :2], starts, 1, None)
    same(dst[:16], src[table[0, 0]])
    assert bool((dst[16:] == 9).all())


@pytest.mark.parametrize("count", [1, 4096, 4099])
def test_convert_fp8(dtype: torch.dtype, count: int) -> None:
    x = randn(2, count, dtype=dtype)
    for kind in ("auto", "fp8", "fp8_e5m2"):
        outputs = []
        for module in (ops, reference):
            stored = torch.full(x.shape, 0x2A, dtype=torch.uint8, device="cuda")
            module.convert_fp8(stored, x, 0.37, kind)
            back = torch.full_like(x, 9.0)
            module.convert_fp8(back, stored, 0.37, kind)
            outputs.append((stored, back))
        for ours, theirs in zip(*outputs, strict=True):
            same(ours, theirs)


def test_swap_blocks(dtype: torch.dtype) -> None:
    mapping = torch.tensor([[0, 5], [1, 6], [2, 7], [7, 0], [4, 2]])
    src, size = randn(8, 3, 20, dtype=dtype), 60 * dtype.itemsize
    for source, target in (
        (src, torch.zeros_like(src)),
        (src, torch.zeros_like(src, device="cpu")),
        (src.cpu(), torch.zeros_like(src)),
    ):
        ops.swap_blocks(source, target, size, mapping)
        torch.cuda.synchronize()
        want = torch.zeros_like(target)
        reference.swap_blocks(source, want, size, mapping)
        same(target, want)
    host = src.cpu().pin_memory()
    target = torch.zeros_like(src)
    addresses = [
        torch.tensor([tensor.data_ptr() + block * size for block in blocks])
        for tensor, blocks in ((host, (0, 3)), (target, (4, 1)))
    ]
    ops.swap_blocks_batch(*addresses, torch.tensor([size, size]))
    torch.cuda.synchronize()
    same(target[[4, 1]], src[[0, 3]])
    assert not target[[0, 2, 3, 5, 6, 7]].any()


def test_graph() -> None:
    key = randn(9, 2, 64, dtype=torch.bfloat16)
    cache = torch.zeros(2, 4, 16, 2, 64, dtype=torch.bfloat16, device="cuda")
    slots, one = torch.arange(9, device="cuda"), torch.ones(1, device="cuda")
    call = (key, key, cache[0], cache[1], slots, "auto", one, one)
    ops.reshape_and_cache_flash(*call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.reshape_and_cache_flash(*call)
    slots.add_(20)
    cache.zero_()
    graph.replay()
    same(cache[0].view(64, 2, 64)[20:29], key)
    assert not cache[0].view(64, 2, 64)[:20].any()


def test_bad_input(subtests: pytest.Subtests) -> None:
    key = randn(4, 2, 64, dtype=torch.bfloat16)
    cache = torch.zeros(3, 16, 2, 64, dtype=torch.bfloat16, device="cuda")
    slots, one = torch.arange(4, device="cuda"), torch.ones(1, device="cuda")
    good: dict[str, Any] = {
        "key": key,
        "value": key,
        "key_cache": cache,
        "value_cache": torch.zeros_like(cache),
        "slot_mapping": slots,
        "kv_cache_dtype": "auto",
        "k_scale": one,
        "v_scale": one,
    }
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kv_cache_dtype": "nvfp4"}, 'kv_cache_dtype is "nvfp4", want auto, float32'),
        ({"kv_cache_dtype": "fp8"}, "key_cache is bfloat16, want uint8 or float8_e4m3fn"),
        ({"key": key.double()}, "key is float64, want float32 or bfloat16 or float16"),
        ({"value": key[:3]}, r"value has shape \[3, 2, 64\], want 4 in dimension 0"),
        ({"key_cache": cache.half()}, "key_cache is float16, want bfloat16 as key"),
        (
            {"value_cache": cache.clone()[..., :32]},
            r"value_cache has shape .*, want 64 in dimension 3",
        ),
        ({"slot_mapping": slots.int()}, "slot_mapping is int32, want int64"),
    ]
    for change, message in cases:
        with (
            subtests.test(message),
            pytest.raises(RuntimeError, match=f"reshape_and_cache_flash: {message}"),
        ):
            ops.reshape_and_cache_flash(**{**good, **change})
    stored = cache.to(FLOAT8)
    scales = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match=r"k_scale has shape \[3\], want one element or 2"):
        ops.reshape_and_cache_flash(key, key, stored, stored.clone(), slots, "fp8", scales, scales)
    with pytest.raises(RuntimeError, match=r"swap_blocks: block_mapping has 3 at \[0, 1\], want 0"):
        ops.swap_blocks(cache, cache, cache[0].nbytes, torch.tensor([[0, 3]]))
