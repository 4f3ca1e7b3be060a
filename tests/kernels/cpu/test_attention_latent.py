"""mla_decode_kvcache against float64, per tier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference.attention import cpu as reference

from .attention import TOLERANCE

ops = torch.ops.vllm_kernels


def make(
    dtype: torch.dtype,
    lengths: tuple[int, ...],
    heads: int = 16,
    head_size: int = 576,
    value_size: int = 512,
    block_size: int = 16,
) -> dict[str, Any]:
    """Pages in random order; NaN in every slot that no request has."""
    pages = [-(-length // block_size) for length in lengths]
    cache = torch.full((sum(pages) + 2, block_size, head_size), float("nan"), dtype=dtype)
    order = torch.randperm(len(cache))[: sum(pages)].split(pages)
    table = torch.full((len(lengths), max(pages, default=0) + 1), -1, dtype=torch.int32)
    for row, (blocks, length) in enumerate(zip(order, lengths, strict=True)):
        table[row, : len(blocks)] = blocks
        for page, block in enumerate(blocks.tolist()):
            used = min(block_size, length - page * block_size)
            cache[block, :used] = torch.randn(used, head_size).to(dtype)
    # Heads with a gap behind each, as slices of wider tensors.
    query = torch.randn(len(lengths), heads, head_size + 8).to(dtype)[..., :head_size]
    out = torch.full((len(lengths), heads, value_size + 4), float("nan"), dtype=dtype)
    return {
        "out": out[..., :value_size],
        "query": query,
        "kv_cache": cache,
        "scale": head_size**-0.5,
        "block_tables": table,
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
    }


def expected(args: dict[str, Any]) -> torch.Tensor:
    wide = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in args.items()
    }
    wide["out"] = torch.zeros(args["out"].shape, dtype=torch.float64)
    reference.mla_decode_kvcache(**wide)
    found = wide["out"]
    assert isinstance(found, torch.Tensor)
    return found


def check(args: dict[str, Any]) -> None:
    ops.mla_decode_kvcache(**args)
    tolerance = TOLERANCE[args["query"].dtype]
    torch.testing.assert_close(args["out"].double(), expected(args), rtol=0, atol=tolerance)


@pytest.mark.parametrize("heads", [1, 2, 16, 20, 128])
def test_heads(tier: str, dtype: torch.dtype, heads: int) -> None:
    """Few heads go to the kernel for few rows, more to the one for many."""
    check(make(dtype, (1, 15, 16, 17, 129), heads))


@pytest.mark.parametrize(
    ("head_size", "value_size", "block_size"),
    [(576, 512, 128), (72, 64, 16), (40, 5, 32), (8, 8, 16)],
)
def test_sizes(
    tier: str, dtype: torch.dtype, head_size: int, value_size: int, block_size: int
) -> None:
    args = make(dtype, (3, 90, 200), 6, head_size, value_size, block_size)
    check(args)
    behind = args["out"].as_strided((3, 6, 4), args["out"].stride(), value_size)
    assert behind.isnan().all()


def test_long_requests_are_split(tier: str, dtype: torch.dtype) -> None:
    check(make(dtype, (3000, 5), 8))


def test_a_request_without_keys_gives_zeros(tier: str, dtype: torch.dtype) -> None:
    args = make(dtype, (0, 20, 0), 4)
    ops.mla_decode_kvcache(**args)
    assert not args["out"][::2].any()
    found, wanted = args["out"][1].double(), expected(args)[1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE[dtype])


def test_nothing_to_do(tier: str) -> None:
    ops.mla_decode_kvcache(**make(torch.float32, ()))
    ops.mla_decode_kvcache(**make(torch.float32, (3,), heads=0))


BAD: dict[str, dict[str, Any]] = {
    "query is float64, want float32 or bfloat16 or float16": {
        "query": torch.zeros(2, 4, 576).double()
    },
    "query has shape .*, want 3 dimensions": {"query": torch.zeros(4, 576)},
    "out is bfloat16, want float32 as query": {"out": torch.zeros(2, 4, 512).bfloat16()},
    "out has shape .*, want 2 in dimension 0": {"out": torch.zeros(3, 4, 512)},
    "out has shape .*, want 4 in dimension 1": {"out": torch.zeros(2, 5, 512)},
    "out has values of 584 elements, want at most the 576 of query": {
        "out": torch.zeros(2, 4, 584)
    },
    "kv_cache is float16, want float32 as query": {"kv_cache": torch.zeros(9, 16, 576).half()},
    "kv_cache has shape .*, want 576 in dimension 2": {"kv_cache": torch.zeros(9, 16, 512)},
    "kv_cache has blocks of 8 slots, want a multiple of 16": {"kv_cache": torch.zeros(9, 8, 576)},
    "block_tables is int64, want int32": {"block_tables": torch.zeros(2, 4).long()},
    "block_tables has shape .*, want at least 2 in dimension 0": {
        "block_tables": torch.zeros(1, 4).int()
    },
    r"block_tables\[1, 0\] is 99, want 0 to 5 as kv_cache has 6 blocks": {
        "block_tables": torch.tensor([[0, 0, 0], [99, 0, 0]]).int()
    },
    "request 1 has 40 keys, but block_tables has room for 32": {
        "block_tables": torch.zeros(2, 2).int()
    },
    r"seq_lens\[1\] is -1, want 0 to": {"seq_lens": torch.tensor([5, -1]).int()},
    r"seq_lens has shape \[1\], want at least 2": {"seq_lens": torch.tensor([5]).int()},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_sentence(message: str) -> None:
    args = make(torch.float32, (5, 40), 4)
    with pytest.raises(RuntimeError, match=f"^mla_decode_kvcache: {message}"):
        ops.mla_decode_kvcache(**{**args, **BAD[message]})
    assert args["out"].isnan().all(), "a refused call must not write"
