"""What cpu_attention_with_kv_cache refuses, before it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .attention import Problem, make, ops


def set_at(name: str, index: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(args: dict[str, Any]) -> None:
        args[name][index] = value

    return change


def put(name: str, make_value: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(args: dict[str, Any]) -> None:
        args[name] = make_value(args[name])

    return change


BAD = {
    "query_start_loc\\[0\\] and \\[1\\] are 9 and 2": set_at("query_start_loc", 0, 9),
    "query_start_loc\\[1\\] and \\[2\\] are 2 and 99.*5 tokens": set_at("query_start_loc", 2, 99),
    "seq_lens\\[1\\] is 2, want at least the request's 3 query tokens": set_at("seq_lens", 1, 2),
    "request 0 has 9999 keys, but block_table has room for 64": set_at("seq_lens", 0, 9999),
    "block_table\\[1, 2\\] is 77, want 0 to 7": set_at("block_table", (1, 2), 77),
    "block_table\\[0, 0\\] is -1, want 0 to 7": set_at("block_table", (0, 0), -1),
    "query is int32, want float32 or bfloat16 or float16": put("query", lambda x: x.int()),
    "query has shape .*, want 3 dimensions": put("query", lambda x: x[0]),
    "query has stride .* in its last dimension, want 1": put(
        "query", lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)
    ),
    "output is float64, want float32 as query": put("output", lambda x: x.double()),
    "output has shape .* as query": put("output", lambda x: x[:-1]),
    "key_cache is float16, want float32 as query": put("key_cache", lambda x: x.half()),
    "key_cache has shape .*, want 4 dimensions": put("key_cache", lambda x: x[0]),
    "key_cache has shape .*, want 64 in dimension 3": put("key_cache", lambda x: x[..., :32]),
    "value_cache has shape .* as key_cache": put("value_cache", lambda x: x[:-1]),
    "block_table is int64, want int32": put("block_table", lambda x: x.long()),
    "block_table has shape .*, want at least 2 in dimension 0": put("block_table", lambda x: x[:1]),
    "seq_lens is int64, want int32": put("seq_lens", lambda x: x.long()),
    "seq_lens has shape \\[1\\], want at least 2": put("seq_lens", lambda x: x[:1]),
    "query_start_loc is empty": put("query_start_loc", lambda x: x[:0]),
    "query has 8 heads, want a multiple of the 3 heads of key_cache": put(
        "key_cache", lambda x: x[:, :1].expand(-1, 3, -1, -1)
    ),
    "blocks of 8 slots, want a multiple of 16": put("key_cache", lambda x: x[:, :, :8]),
    "sliding_window_size is 0, want -1": put("sliding_window_size", lambda _: 0),
    "softcap is -1, want 0": put("softcap", lambda _: -1.0),
    "alibi_slopes is float64, want float32": put(
        "alibi_slopes", lambda _: torch.zeros(8, dtype=torch.float64)
    ),
    "alibi_slopes has shape \\[7\\], want 8": put("alibi_slopes", lambda _: torch.zeros(7)),
    "s_aux has shape \\[7\\], want 8": put("s_aux", lambda _: torch.zeros(7)),
    "dynamic_causal is int32, want bool": put(
        "dynamic_causal", lambda _: torch.zeros(2, dtype=torch.int32)
    ),
    "dynamic_causal has shape \\[1\\], want at least 2": put(
        "dynamic_causal", lambda _: torch.zeros(1, dtype=torch.bool)
    ),
    'kv_cache_dtype is "int4", want auto, fp8, fp8_e4m3 or': put(
        "kv_cache_dtype", lambda _: "int4"
    ),
    "key_cache is float32, want uint8 or float8_e4m3fn": put("kv_cache_dtype", lambda _: "fp8"),
    "key_cache is float32, want uint8": put("kv_cache_dtype", lambda _: "fp8_e5m2"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_sentence(message: str) -> None:
    batch = make(Problem(((2, 20), (3, 40))), torch.float32)
    args = {"kv_cache_dtype": "auto", **batch.args}
    BAD[message](args)
    value = args["value_cache"]
    if args["key_cache"].shape[1:] != value.shape[1:] and args["key_cache"].dim() == 4:
        args["value_cache"] = args["key_cache"]
    with pytest.raises(RuntimeError, match=f"^cpu_attention_with_kv_cache: .*{message}"):
        ops.cpu_attention_with_kv_cache(**args)
    assert batch.args["output"].isnan().all(), "a refused call must not write"


def test_head_size_must_be_a_multiple_of_eight() -> None:
    batch = make(Problem(head_size=36), torch.float32)
    with pytest.raises(RuntimeError, match="head size is 36, want a multiple of 8 up to 1024"):
        batch.run()
