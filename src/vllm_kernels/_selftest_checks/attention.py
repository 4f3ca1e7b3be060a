from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check(
    "cpu_attn_has_isa",
    "get_scheduler_metadata",
    "cpu_attn_reshape_and_cache",
    "cpu_attention_with_kv_cache",
)
def _attention(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """A prefill of 21 tokens and a decode at 70, grouped heads, causal; window and soft cap."""
    isa = "amx" if dtype is torch.bfloat16 and ops.cpu_attn_has_isa("amx") else "vec"
    heads, kv_heads, head, block = 4, 2, 64, 32
    lengths, new = [21, 70], [21, 1]
    starts = torch.tensor([0, 21, 22], dtype=torch.int32)
    seq_lens = torch.tensor(lengths, dtype=torch.int32)
    table = torch.tensor([[3, 0, 0], [1, 4, 2]], dtype=torch.int32)
    # Keys and values are two halves of one buffer, as the engine has them.
    cache = torch.zeros(6, kv_heads, block, 2 * head, dtype=dtype)
    keys, values = cache[..., :head], cache[..., head:]
    for row, length in enumerate(lengths):
        position = torch.arange(length)
        slots = table[row, position // block].long() * block + position % block
        key = torch.randn(length, kv_heads, head, dtype=dtype)
        value = torch.randn(length, kv_heads, head, dtype=dtype)
        ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, isa)
    query = torch.randn(sum(new), heads, head, dtype=dtype)
    results = []
    for window, softcap in ((-1, 0.0), (16, 30.0)):
        plan = ops.get_scheduler_metadata(
            len(new), heads, kv_heads, head, seq_lens, dtype, starts, True, window, isa, True, None
        )
        out = torch.zeros_like(query)
        ops.cpu_attention_with_kv_cache(
            query, keys, values, out, starts, seq_lens, head**-0.5, True, None, window, table,
            softcap, plan, None, None,
        )  # fmt: skip
        results.append(out)
    codes = torch.zeros(6, kv_heads, block, 2 * head, dtype=torch.uint8)
    coded = codes[..., :head], codes[..., head:]
    key, value = (torch.randn(21, kv_heads, head, dtype=dtype) for _ in range(2))
    slots = torch.arange(21) + 3 * block
    ops.cpu_attn_reshape_and_cache(key, value, *coded, slots, isa, 0.5, 0.25, "fp8_e4m3")
    out = torch.zeros_like(query[:21])
    ops.cpu_attention_with_kv_cache(
        query[:21], *coded, out, starts[:2], seq_lens[:1], head**-0.5, True, None, -1, table,
        0.0, plan, None, None, 0.5, 0.25, "fp8_e4m3",
    )  # fmt: skip
    results.append(out)
    return results


@check("mla_decode_kvcache")
def _latent_attention(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Requests of 21 and 60 keys and one without any, 12 heads on rows of DeepSeek's size."""
    query = torch.randn(3, 12, 576, dtype=dtype)
    cache = torch.randn(6, 16, 576, dtype=dtype)
    table = torch.tensor([[3, 0, 0, 0, 0], [1, 4, 2, 5, 0], [0, 0, 0, 0, 0]], dtype=torch.int32)
    out = torch.zeros(3, 12, 512, dtype=dtype)
    lengths = torch.tensor([21, 60, 0], dtype=torch.int32)
    ops.mla_decode_kvcache(out, query, cache, 576**-0.5, table, lengths)
    return [out]


@check("decode_attention_cpu", "extend_attention_cpu")
def _rows(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Latent rows of 96 elements in blocks of 16; of two requests' keys the last are new."""
    buffer = torch.randn(96, 1, 96, dtype=dtype)
    values = buffer[..., :64]
    table = torch.stack([torch.arange(48) + 48, torch.arange(48)])
    pool, lengths = torch.tensor([1, 0]), torch.tensor([21, 40])
    common = (table, pool, lengths)
    options = (96**-0.5, 0.0, False, 0, None, None)
    one = torch.zeros(2, 4, 64, dtype=dtype)
    logits = torch.zeros(2, 4, 1, 65)
    ops.decode_attention_cpu(
        torch.randn(2, 4, 96, dtype=dtype), buffer, values, one, None, None, None, logits,
        *common, *options,
    )  # fmt: skip
    results = [one]
    # The same keys as the buffer has, and others.
    for new in (buffer[[19, 20, 87]], torch.randn(3, 1, 96, dtype=dtype)):
        out = torch.zeros(3, 4, 64, dtype=dtype)
        ops.extend_attention_cpu(
            torch.randn(3, 4, 96, dtype=dtype), new, new[..., :64], out, buffer, values, *common,
            torch.tensor([2, 1]), torch.tensor([0, 2]), 2, *options, None,
        )  # fmt: skip
        results.append(out)
    return results
