"""The caches of sparse latent attention, bit by bit against the references."""

from __future__ import annotations

import pytest
import torch

from vllm_kernels.reference.cache import indexer as reference

ops = torch.ops.vllm_kernels


def empty_cache(blocks: int, block_size: int, entry: int) -> torch.Tensor:
    return torch.full((blocks, block_size, entry), 0x2A, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("scale_format", ["auto", "ue8m0"])
@pytest.mark.parametrize(("head", "group"), [(128, 128), (128, 32), (64, 64), (384, 128)])
@pytest.mark.parametrize("tokens", [1, 17, 300])
def test_write(dtype: torch.dtype, scale_format: str, head: int, group: int, tokens: int) -> None:
    blocks, block_size = tokens // 16 + 2, 16
    slots = torch.randperm(blocks * block_size, device="cuda")[:tokens]
    slots[::5] = -1
    slots[3::11] = blocks * block_size + 2
    keys = (torch.randn(tokens + 2, head + 8, device="cuda") * 5).to(dtype)[:, :head]
    keys[1:2] = 0.0
    keys[2:3] = 2.0**-7 * 448  # a scale that is a power of two already
    caches = []
    for module in (ops, reference):
        cache = empty_cache(blocks, block_size, head + head // group * 4)
        module.indexer_k_quant_and_cache(keys, cache, slots, group, scale_format)
        caches.append(cache)
    assert torch.equal(*caches)
    assert not torch.equal(caches[0], torch.full_like(caches[0], 0x2A)) or tokens == 1


@pytest.mark.parametrize("scale_dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("head", "group"), [(128, 128), (128, 32)])
def test_gather(scale_dtype: torch.dtype, head: int, group: int) -> None:
    lengths, block_size = [5, 0, 70, 1, 33], 16
    pages = 6
    scale_bytes = head // group * 4
    cache = torch.randint(
        0, 256, (40, block_size, head + scale_bytes), dtype=torch.uint8, device="cuda"
    )
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device="cuda")
    table = torch.randperm(40, device="cuda")[: 5 * pages].view(5, pages).int()
    outputs = []
    for module in (ops, reference):
        keys = torch.full((120, head), 7, dtype=torch.uint8, device="cuda")
        width = scale_bytes // scale_dtype.itemsize
        scales = torch.zeros(120, width, dtype=scale_dtype, device="cuda")
        module.cp_gather_indexer_k_quant_cache(cache, keys, scales, table, starts)
        outputs.append((keys, scales.view(torch.uint8)))
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)
    assert torch.all(outputs[0][0][sum(lengths) :] == 7)


def test_what_is_written_is_gathered() -> None:
    keys = torch.randn(20, 128, device="cuda").bfloat16()
    cache = empty_cache(2, 16, 132)
    ops.indexer_k_quant_and_cache(keys, cache, torch.arange(20, device="cuda"), 128, "auto")
    values = torch.empty(20, 128, dtype=torch.float8_e4m3fn, device="cuda")
    scales = torch.empty(20, 1, dtype=torch.float32, device="cuda")
    table = torch.tensor([[0, 1]], dtype=torch.int32, device="cuda")
    starts = torch.tensor([0, 20], dtype=torch.int32, device="cuda")
    ops.cp_gather_indexer_k_quant_cache(cache, values, scales, table, starts)
    torch.testing.assert_close(values.float() * scales, keys.float(), rtol=0.07, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": 48}, "quant_block_size is 48, want 32, 64 or 128"),
        ({"head": 96}, r"k has shape \[4, 96\], want a multiple of 64 columns"),
        ({"entry": 130}, r"kv_cache has shape \[2, 16, 130\]"),
        ({"slots": 5}, r"slot_mapping has shape \[5\], want at most 4"),
    ],
)
def test_bad_input_is_refused(change: dict[str, int], message: str) -> None:
    sizes = {"group": 64, "head": 128, "entry": 136, "slots": 4, **change}
    keys = torch.randn(4, sizes["head"], device="cuda")
    cache = empty_cache(2, 16, sizes["entry"])
    slots = torch.arange(sizes["slots"], device="cuda")
    with pytest.raises(RuntimeError, match=f"^indexer_k_quant_and_cache: {message}"):
        ops.indexer_k_quant_and_cache(keys, cache, slots, sizes["group"], "auto")


def test_scales_of_a_dtype_that_is_not_known() -> None:
    """Its elements would count as no bytes, and the scales be left as they are."""
    cache = empty_cache(2, 16, 136)
    table = torch.zeros(1, 1, dtype=torch.int32, device="cuda")
    starts = torch.tensor([0, 5], dtype=torch.int32, device="cuda")
    keys = torch.zeros(5, 128, dtype=torch.uint8, device="cuda")
    scales = torch.zeros(5, 4, dtype=torch.int16, device="cuda")
    with pytest.raises(RuntimeError, match=r"dst_scale has a dtype that is not known here"):
        ops.cp_gather_indexer_k_quant_cache(cache, keys, scales, table, starts)


@pytest.mark.parametrize("moved", [False, True], ids=["whole", "from-starts"])
@pytest.mark.parametrize("block_size", [16, 64])
def test_unpack(moved: bool, block_size: int) -> None:
    latents = torch.randn(20 * block_size, 512, device="cuda").bfloat16() * 3
    ropes = torch.randn(20 * block_size, 64, device="cuda").bfloat16()
    cache = torch.zeros(20, block_size, 656, dtype=torch.uint8, device="cuda")
    slots, one = torch.arange(20 * block_size, device="cuda"), torch.ones(1, device="cuda")
    ops.concat_and_cache_mla(latents, ropes, cache, slots, "fp8_ds_mla", one)
    lengths = [5, 0, 2 * block_size, 1, 33]
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device="cuda")
    table = torch.randperm(20, device="cuda").view(5, 4).int()
    begin = torch.tensor([3, 0, 9, 1, 7], dtype=torch.int32, device="cuda") if moved else None
    outputs = []
    for module in (ops, reference):
        out = torch.zeros(sum(lengths), 584, device="cuda").bfloat16()
        module.cp_gather_and_upconvert_fp8_kv_cache(cache, out[:, :576], table, starts, 5, begin)
        outputs.append(out)
    assert torch.equal(*outputs)
    slot = int(table[2, 0]) * block_size + (9 if moved else 0)
    row = outputs[0][5].float()
    torch.testing.assert_close(row[:512], latents[slot].float(), rtol=0.07, atol=0.1)
    assert torch.equal(row[512:576], ropes[slot].float())
