"""decode_attention_cpu and extend_attention_cpu against float64, per tier."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vllm_kernels.reference.attention import rows as reference

from .attention import TOLERANCE

ops = torch.ops.vllm_kernels


def make(
    dtype: torch.dtype,
    lengths: tuple[int, ...],
    new: tuple[int, ...] | None = None,
    heads: int = 16,
    kv_heads: int = 1,
    sizes: tuple[int, int] = (576, 512),
    block: int = 32,
    index: torch.dtype = torch.int64,
    written: bool = True,
    latent: bool = True,
) -> dict[str, Any]:
    """Requests whose rows lie in blocks in random order; NaN in every row that none has.

    ``new``: tokens of each request, for extend_attention_cpu; ``written``: they are in the buffers
    as well.
    """
    head_size, value_size = sizes
    pages = [-(-length // block) for length in lengths]
    keys = torch.full(((sum(pages) + 2) * block, kv_heads, head_size), float("nan")).to(dtype)
    values = torch.full((len(keys), kv_heads, head_size), float("nan")).to(dtype)
    order = torch.randperm(sum(pages) + 2)[: sum(pages)].split(pages)
    table = torch.full((len(lengths) + 2, max(lengths, default=0) + 3), -1, dtype=index)
    pool = torch.randperm(len(table))[: len(lengths)]
    for row, blocks, length in zip(pool.tolist(), order, lengths, strict=True):
        rows = (blocks.unsqueeze(1) * block + torch.arange(block)).flatten()[:length]
        table[row, :length] = rows.to(index)
        keys[rows] = torch.randn(length, kv_heads, head_size).to(dtype)
        values[rows] = torch.randn(length, kv_heads, head_size).to(dtype)
    if latent:
        values = keys[..., :value_size]
    tokens = len(lengths) if new is None else sum(new)
    # Heads with a gap behind each, as slices of wider tensors.
    query = torch.randn(tokens, heads, head_size + 8).to(dtype)[..., :head_size]
    out = torch.full((tokens, heads, values.shape[2] + 4), float("nan"), dtype=dtype)
    out = out[..., : values.shape[2]]
    common = {
        "k_buffer": keys, "v_buffer": values, "req_to_token": table, "req_pool_indices": pool,
        "seq_lens": torch.tensor(lengths, dtype=torch.int64), "sm_scale": head_size**-0.5,
        "logit_cap": 0.0, "is_cross_attn": False, "sliding_window_size": 0, "encoder_lens": None,
        "sinks": None,
    }  # fmt: skip
    if new is None:
        logits = torch.zeros(tokens, heads, 1, values.shape[2] + 1)
        return {
            **common, "query": query, "output": out, "key": None, "value": None, "loc": None,
            "attn_logits": logits,
        }  # fmt: skip
    rows = [
        table[row, length - count : length].long()
        for row, length, count in zip(pool.tolist(), lengths, new, strict=True)
    ]
    mine = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    new_keys = keys[mine]
    new_values = new_keys[..., :value_size] if latent else values[mine]
    if not written:
        keys[mine] = float("nan")
        values[mine] = float("nan")
        for row, length, count in zip(pool.tolist(), lengths, new, strict=True):
            table[row, length - count : length] = -1
    starts = [sum(new[:i]) for i in range(len(new))]
    return {
        **common, "q_extend": query, "k_extend": new_keys, "v_extend": new_values,
        "o_extend": out, "extend_seq_lens": torch.tensor(new, dtype=index),
        "extend_start_loc": torch.tensor(starts, dtype=index),
        "max_len_extend": max(new, default=0), "tree_mask": None,
    }  # fmt: skip


def check(args: dict[str, Any]) -> None:
    op = "decode_attention_cpu" if "query" in args else "extend_attention_cpu"
    output = "output" if "query" in args else "o_extend"
    wide = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in args.items()
    }
    wide[output] = torch.zeros(args[output].shape, dtype=torch.float64)
    getattr(reference, op)(**wide)
    getattr(ops, op)(**args)
    found = args[output]
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.double(), wide[output], rtol=0, atol=tolerance)


@pytest.mark.parametrize("heads", [1, 16, 20, 128])
def test_decode(tier: str, dtype: torch.dtype, heads: int) -> None:
    check(make(dtype, (1, 15, 32, 33, 129), heads=heads))


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("heads", [1, 16, 20])
def test_extend(tier: str, dtype: torch.dtype, heads: int, written: bool) -> None:
    """Fresh prompts, ones behind a prefix, and a request without new tokens."""
    lengths, new = (9, 81, 63, 40, 7), (9, 17, 23, 0, 1)
    check(make(dtype, lengths, new, heads=heads, written=written))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("block", [1, 2, 3, 16, 48, 256])
def test_rows_in_any_order(tier: str, dtype: torch.dtype, block: int, index: torch.dtype) -> None:
    """As many rows as follow each other are read as a block; the last one may be shorter."""
    check(make(dtype, (70, 5, 260), heads=16, block=block, index=index))
    for written in (True, False):
        args = make(
            dtype, (70, 5, 260), (3, 5, 33), heads=4, block=block, index=index, written=written
        )
        check(args)


@pytest.mark.parametrize("rows", [1, 15, 16, 33, 48, 300])
def test_the_buffer_ends_with_the_last_key(tier: str, dtype: torch.dtype, rows: int) -> None:
    """Kernels that take several keys at once find no more rows there."""
    decode = make(dtype, (rows,), heads=16)
    extend = make(dtype, (rows,), (min(rows, 8),), heads=16)
    for args in (decode, extend):
        keys = args["k_buffer"][args["req_to_token"][args["req_pool_indices"][0], :rows]]
        table = torch.arange(rows).expand(len(args["req_to_token"]), -1)
        check({**args, "k_buffer": keys, "v_buffer": keys[..., :512], "req_to_token": table})


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("sizes", [(96, 64), (40, 5), (8, 8), (64, 64)])
def test_sizes(tier: str, dtype: torch.dtype, sizes: tuple[int, int], written: bool) -> None:
    for args in (
        make(dtype, (3, 90, 200), heads=6, sizes=sizes),
        make(dtype, (3, 90, 200), (3, 1, 64), heads=6, sizes=sizes, written=written),
    ):
        check(args)
        out = args.get("output", args.get("o_extend"))
        behind = out.as_strided((len(out), 6, 4), out.stride(), out.shape[2])
        assert behind.isnan().all()


@pytest.mark.parametrize("latent", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_grouped_heads(tier: str, dtype: torch.dtype, written: bool, latent: bool) -> None:
    shape: dict[str, Any] = {"heads": 6, "kv_heads": 3, "sizes": (64, 64), "latent": latent}
    check(make(dtype, (40, 3), **shape))
    check(make(dtype, (40, 3), (8, 2), written=written, **shape))


def test_values_of_their_own_are_read(tier: str) -> None:
    """New values that differ from the buffer's where the keys do not."""
    args = make(torch.float32, (40, 30), (8, 30), heads=2, sizes=(64, 64), latent=False)
    args["v_extend"] = torch.randn_like(args["v_extend"])
    check(args)


def test_shorter_values_of_their_own(tier: str, dtype: torch.dtype) -> None:
    decode = make(dtype, (40, 3), heads=6, kv_heads=3, sizes=(64, 40))
    extend = make(dtype, (40, 3), (8, 2), heads=6, kv_heads=3, sizes=(64, 40))
    extend["v_extend"] = torch.randn_like(extend["v_extend"])
    for args in (decode, extend):
        check({**args, "v_buffer": args["v_buffer"].clone()})


def test_new_keys_count_more_than_the_buffers(tier: str, dtype: torch.dtype) -> None:
    args = make(dtype, (40, 30), (8, 30), heads=2)
    args["k_extend"] = args["k_extend"].clone()
    args["k_extend"][20, 0, 300] += 1
    args["v_extend"] = args["k_extend"][..., :512]
    check(args)


@pytest.mark.parametrize("window", [1, 7, 64, 1000])
def test_window_cap_and_sinks(tier: str, dtype: torch.dtype, window: int) -> None:
    changed = {"sliding_window_size": window, "logit_cap": 2.0}
    for sinks in (None, torch.randn(4), torch.randn(4).to(dtype)):
        check({**make(dtype, (100, 33, 1), heads=4), **changed, "sinks": sinks})
        check({**make(dtype, (100, 33, 1), (50, 33, 1), heads=4), **changed, "sinks": sinks})


def test_long_requests_are_split(tier: str, dtype: torch.dtype) -> None:
    check(make(dtype, (3000, 5), heads=8))


def test_a_request_without_keys_gives_zeros(tier: str, dtype: torch.dtype) -> None:
    args = make(dtype, (0, 20, 0), heads=4)
    check(args)
    assert not args["output"][::2].any()


def test_nothing_to_do(tier: str) -> None:
    ops.decode_attention_cpu(**make(torch.float32, ()))
    ops.extend_attention_cpu(**make(torch.float32, (), ()))
    ops.extend_attention_cpu(**make(torch.float32, (5, 0), (0, 0)))
    ops.decode_attention_cpu(**make(torch.float32, (5, 20), sizes=(64, 0)))
    ops.extend_attention_cpu(**make(torch.float32, (5, 20), (3, 7), sizes=(64, 0)))


BAD_DECODE: dict[str, dict[str, Any]] = {
    "query is float64, want float32": {"query": torch.zeros(2, 4, 576).double()},
    "query has 2 dimensions|query has shape": {"query": torch.zeros(4, 576)},
    "query has shape .*, want 2 in dimension 0": {
        "query": torch.zeros(3, 4, 576), "output": torch.zeros(3, 4, 512)
    },
    "output has shape .*, want 512 in dimension 2": {"output": torch.zeros(2, 4, 576)},
    "k_buffer is float16, want float32 as query": {"k_buffer": torch.zeros(9, 1, 576).half()},
    "query has 4 heads, want a multiple of the 3": {
        "k_buffer": torch.zeros(9, 3, 576), "v_buffer": torch.zeros(9, 3, 512)
    },
    "v_buffer has shape": {"v_buffer": torch.zeros(9, 1, 512)},
    r"req_to_token\[1, 5\] is -1, want 0 to": {"req_pool_indices": torch.tensor([0, 1])},
    r"req_pool_indices\[1\] is 9, want 0 to 3": {"req_pool_indices": torch.tensor([0, 9])},
    "req_pool_indices is int32": {"req_pool_indices": torch.zeros(2, dtype=torch.int32)},
    r"seq_lens\[1\] is -1, want 0 to": {"seq_lens": torch.tensor([5, -1])},
    r"seq_lens\[1\] is 99, want 0 to the 43": {"seq_lens": torch.tensor([5, 99])},
    "logit_cap is -1": {"logit_cap": -1.0},
    "sinks has shape": {"sinks": torch.zeros(3)},
    "key is given, want none": {"key": torch.zeros(2, 1, 576)},
    "value is given, want none": {"value": torch.zeros(2, 1, 512)},
    "loc is given, want none": {"loc": torch.zeros(2).long()},
    "is_cross_attn is given, want false": {"is_cross_attn": True},
    "encoder_lens is given, want none": {"encoder_lens": torch.zeros(2).long()},
}  # fmt: skip
BAD_EXTEND: dict[str, dict[str, Any]] = {
    "k_extend is missing, want a tensor": {"k_extend": None},
    "v_extend is missing, want a tensor": {"v_extend": None},
    "k_extend has shape .*, want 6 in dimension 0": {
        "k_extend": torch.zeros(7, 1, 576), "v_extend": torch.zeros(7, 1, 512)
    },
    r"extend_seq_lens\[0\] is 6, want 0 to the request's 5 keys": {
        "extend_seq_lens": torch.tensor([6, 2])
    },
    r"extend_start_loc\[1\] is 3, want at least 4": {"extend_start_loc": torch.tensor([0, 3])},
    r"extend_start_loc\[1\] is 5, want 2 tokens": {"extend_start_loc": torch.tensor([0, 5])},
    "extend_start_loc is int32, want int64 as req_to_token": {
        "extend_start_loc": torch.tensor([0, 4], dtype=torch.int32)
    },
    "tree_mask is given, want none": {"tree_mask": torch.zeros(4).bool()},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_DECODE)
def test_bad_decode_input_is_refused_in_one_sentence(message: str) -> None:
    torch.manual_seed(3)
    args = make(torch.float32, (5, 40), heads=4)
    if "req_to_token" in message:
        args["req_to_token"][:2] = 0
        args["req_to_token"][1, 5] = -1
    changed = {**args, **BAD_DECODE[message]}
    with pytest.raises(RuntimeError, match=f"^decode_attention_cpu: ({message})"):
        ops.decode_attention_cpu(**changed)
    assert args["output"].isnan().all(), "a refused call must not write"


@pytest.mark.parametrize("message", BAD_EXTEND)
def test_bad_extend_input_is_refused_in_one_sentence(message: str) -> None:
    args = make(torch.float32, (5, 40), (4, 2), heads=4)
    with pytest.raises(RuntimeError, match=f"^extend_attention_cpu: {message}"):
        ops.extend_attention_cpu(**{**args, **BAD_EXTEND[message]})
    assert args["o_extend"].isnan().all(), "a refused call must not write"
