"""Small calls of every op, for comparing an implementation with the reference.

A check calls ops of the given provider (``torch.ops.vllm_kernels`` or the references) and returns
what they computed. Provider-owned state, such as the layout of a KV cache or a packed weight,
stays inside a check: only results are compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[Any, torch.dtype], list[Tensor]]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Check:
    """`run(provider, dtype)` calls `ops` and returns their results; once for each of `dtypes`."""

    ops: tuple[str, ...]
    run: Run
    dtypes: tuple[torch.dtype, ...] = FLOATS


CHECKS: list[Check] = []


def _check(*ops: str, dtypes: tuple[torch.dtype, ...] = FLOATS) -> Callable[[Run], Run]:
    def register(run: Run) -> Run:
        CHECKS.append(Check(ops, run, dtypes))
        return run

    return register


def _activation(name: str, width: int) -> Run:
    def run(ops: Any, dtype: torch.dtype) -> list[Tensor]:
        x = torch.randn(5, width, dtype=dtype) * 3
        out = torch.empty(5, 67, dtype=dtype)
        getattr(ops, name)(out, x)
        return [out]

    return run


# 67 columns: whole vectors of every tier and a remainder.
for _name in ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul"):
    CHECKS.append(Check((_name,), _activation(_name, 134)))
for _name in ("gelu_new", "gelu_fast", "gelu_quick", "gelu_tanh"):
    CHECKS.append(Check((_name,), _activation(_name, 67)))


@_check("rms_norm")
def _rms_norm(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, weight = torch.randn(5, 131, dtype=dtype), torch.randn(131, dtype=dtype)
    out = torch.empty_like(x)
    ops.rms_norm(out, x, weight, 1e-6)
    return [out]


@_check("fused_add_rms_norm")
def _fused_add_rms_norm(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, residual = torch.randn(5, 131, dtype=dtype), torch.randn(5, 131, dtype=dtype)
    ops.fused_add_rms_norm(x, residual, torch.randn(131, dtype=dtype), 1e-6)
    return [x, residual]


@_check("rotary_embedding")
def _rotary_embedding(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    results = []
    for is_neox in (True, False):
        positions = torch.tensor([0, 3, 17, 63, 5])
        query, key = torch.randn(5, 4 * 64, dtype=dtype), torch.randn(5, 2 * 64, dtype=dtype)
        angles = torch.outer(torch.arange(64.0), 10000.0 ** -(torch.arange(24) / 24))
        cache = torch.cat((angles.cos(), angles.sin()), -1).to(dtype)
        ops.rotary_embedding(positions, query, key, 64, cache, is_neox)
        results += [query, key]
    return results


@_check("compute_slot_mapping_kernel_impl", dtypes=(torch.int64,))
def _slot_mapping(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    starts = torch.tensor([0, 3, 4], dtype=torch.int32)
    slots = torch.full((6,), -1, dtype=dtype)
    table = torch.tensor([[4, 1], [7, 2]], dtype=torch.int32)
    ops.compute_slot_mapping_kernel_impl(starts, torch.tensor([15, 16, 17, 20]), table, slots, 16)
    return [slots]


@_check(
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


@_check("mla_decode_kvcache")
def _latent_attention(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Requests of 21 and 60 keys and one without any, 12 heads on rows of DeepSeek's size."""
    query = torch.randn(3, 12, 576, dtype=dtype)
    cache = torch.randn(6, 16, 576, dtype=dtype)
    table = torch.tensor([[3, 0, 0, 0, 0], [1, 4, 2, 5, 0], [0, 0, 0, 0, 0]], dtype=torch.int32)
    out = torch.zeros(3, 12, 512, dtype=dtype)
    lengths = torch.tensor([21, 60, 0], dtype=torch.int32)
    ops.mla_decode_kvcache(out, query, cache, 576**-0.5, table, lengths)
    return [out]


@_check("static_scaled_int8_quant")
def _static_quant(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x, scale = torch.randn(5, 131, dtype=dtype), torch.tensor([0.02])
    results = []
    for azp in (None, torch.tensor([-7], dtype=torch.int32)):
        out = torch.empty(5, 131, dtype=torch.int8)
        ops.static_scaled_int8_quant(out, x, scale, azp)
        results.append(out)
    return results


@_check("dynamic_scaled_int8_quant")
def _dynamic_quant(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(5, 131, dtype=dtype)
    results = []
    for azp in (None, torch.empty(5, 1, dtype=torch.int32)):
        out, scale = torch.empty(5, 131, dtype=torch.int8), torch.empty(5, 1)
        ops.dynamic_scaled_int8_quant(out, x, scale, azp)
        results += [out, scale]
    return results


@_check(
    "is_onednn_acl_supported",
    "create_onednn_mm_handler",
    "onednn_mm",
    "release_dnnl_matmul_handler",
    dtypes=(torch.float32, torch.bfloat16),
)
def _matmul(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    if ops.is_onednn_acl_supported() not in (True, False):
        raise RuntimeError("is_onednn_acl_supported did not answer with a bool")
    weight = torch.randn(96, 160, dtype=dtype) / 8
    handle = ops.create_onednn_mm_handler(weight.t(), 32)
    results = []
    for rows, bias in ((1, None), (5, torch.randn(96, dtype=dtype))):
        out = torch.empty(rows, 96, dtype=dtype)
        a = torch.randn(rows, 160, dtype=dtype)
        ops.onednn_mm(out, a, bias, torch.tensor(handle, dtype=torch.int64))
        results.append(out)
    ops.release_dnnl_matmul_handler(handle)
    return results


@_check(
    "create_onednn_scaled_mm_handler",
    "onednn_scaled_mm",
    dtypes=(torch.float32, torch.bfloat16),
)
def _scaled_matmul(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    weight = torch.randint(-127, 128, (96, 160), dtype=torch.int8)
    scales = torch.rand(96, 1) * 1e-2
    handle = ops.create_onednn_scaled_mm_handler(weight.t(), scales, dtype, True, False, 32)
    out = torch.empty(5, 96, dtype=dtype)
    a = torch.randint(-127, 128, (5, 160), dtype=torch.int8)
    ops.onednn_scaled_mm(
        out, a, torch.rand(5, 1) * 1e-2, None, None, torch.randn(96, dtype=dtype),
        torch.tensor(handle, dtype=torch.int64),
    )  # fmt: skip
    ops.release_dnnl_matmul_handler(handle)
    return [out]


@_check("prepack_moe_weight", "cpu_fused_moe")
def _experts(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """A decode of one token and a prefill, panels of 64 columns and narrower ones."""
    hidden, inner, experts = 96, 80, 6
    packed = []
    for shape in ((experts, 2 * inner, hidden), (experts, hidden, inner)):
        weight = torch.randn(shape, dtype=dtype) / shape[-1] ** 0.5
        packed.append(torch.empty_like(weight))
        ops.prepack_moe_weight(weight, packed[-1], "vec")
    bias = torch.randn(experts, 2 * inner, dtype=dtype)
    results = []
    for tokens, act in ((1, "silu"), (37, "swigluoai")):
        x, out = torch.randn(tokens, hidden, dtype=dtype), torch.empty(tokens, hidden, dtype=dtype)
        weights, ids = torch.rand(tokens, experts).topk(2)
        ops.cpu_fused_moe(
            out, x, *packed, bias, None, weights, ids.to(torch.int32), False, act, "vec"
        )
        results.append(out)
    return results


@_check("convert_weight_packed", "weight_packed_linear")
def _packed_linear(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """A whole panel of 64 columns and a narrower one."""
    a, weight = torch.randn(3, 70, dtype=dtype), torch.randn(80, 70, dtype=dtype) / 8
    bias, out = torch.randn(80, dtype=dtype), torch.empty(3, 80, dtype=dtype)
    ops.weight_packed_linear(out, a, ops.convert_weight_packed(weight), bias, True)
    return [out]


@_check("convert_weight_packed", "fp8_scaled_mm_cpu", "int8_scaled_mm_with_quant")
def _scaled_linear(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Blocks of 32 x 64 weights, one scale a row, and a weight that is packed in the call."""
    a = torch.randn(3, 150, dtype=dtype)
    weight = torch.randn(96, 150).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 3) / 8
    bytes_ = torch.randint(-128, 128, (96, 150), dtype=torch.int8)
    rows = torch.rand(96) / 1024
    bias = torch.randn(96)
    packed, packed_bytes = ops.convert_weight_packed(weight), ops.convert_weight_packed(bytes_)
    return [
        ops.fp8_scaled_mm_cpu(a, packed, scales, [32, 64], bias, dtype, True),
        ops.fp8_scaled_mm_cpu(a, weight, scales, [32, 64], None, torch.float32, False),
        ops.int8_scaled_mm_with_quant(a, packed_bytes, rows, bias, dtype, True),
    ]


@_check("convert_weight_packed", "convert_scale_packed", "fused_experts_cpu")
def _coded_experts(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """INT8 with SiLU, FP8 with GELU and MXFP4 with gpt-oss's activation."""
    hidden, inner, experts, tokens = 96, 64, 4, 5
    shapes = ((experts, 2 * inner, hidden), (experts, hidden, inner))
    x = torch.randn(tokens, hidden, dtype=dtype)
    weights, ids = torch.rand(tokens, experts).topk(2)
    bias = torch.randn(experts, 2 * inner)

    def run(method: int, act: int, *packed: list[Tensor]) -> Tensor:
        (w1, w2), (scale1, scale2) = packed
        out = torch.empty(tokens, hidden, dtype=dtype)
        ops.fused_experts_cpu(
            out, x, ops.convert_weight_packed(w1), ops.convert_weight_packed(w2), weights,
            ids.to(torch.int32), method, scale1, scale2, None, None, None,
            [32, 64] if method == 2 else None, bias, None, None, None, True, act,
        )  # fmt: skip
        return out

    bytes_ = [torch.randint(-128, 128, shape, dtype=torch.int8) for shape in shapes]
    rows = [torch.rand(shape[:2]) / 1024 for shape in shapes]
    floats = [torch.randn(shape).to(torch.float8_e4m3fn) for shape in shapes]
    blocks = [torch.rand(e, -(-n // 32), -(-k // 64)) / 8 for e, n, k in shapes]
    halves = [torch.randint(0, 256, (e, n, k // 2), dtype=torch.uint8) for e, n, k in shapes]
    powers = [torch.randint(120, 125, (e, n, k // 32), dtype=torch.uint8) for e, n, k in shapes]
    return [
        run(1, 0, bytes_, rows),
        run(2, 2, floats, blocks),
        run(4, 1, halves, [ops.convert_scale_packed(scale) for scale in powers]),
    ]


@_check("cpu_gemm_wna16")
def _int4_matmul(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Symmetric and with zero points, in groups and in act-order, few rows and many."""
    depth, columns, groups = 160, 96, 5
    any_words = (-(2**31), 2**31)
    weight = torch.randint(*any_words, (columns // 16, 2 * depth)).to(torch.int32)
    zeros = torch.randint(*any_words, (groups, columns // 8)).to(torch.int32)
    order = (torch.randperm(depth) % groups).to(torch.int32)
    scales = torch.rand(groups, columns, dtype=dtype) / 64
    results = []
    for rows, zero, g_idx in ((1, None, None), (5, zeros, order), (37, zeros, None)):
        out = torch.empty(rows, columns, dtype=dtype)
        a, bias = torch.randn(rows, depth, dtype=dtype), torch.randn(columns, dtype=dtype)
        ops.cpu_gemm_wna16(a, weight, out, scales, zero, g_idx, bias, 8, "vec")
        results.append(out)
    return results


@_check("rank_sum")
def _rank_sum(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    out = torch.empty(67, dtype=dtype)
    ops.rank_sum(out, torch.randn(3, 67, dtype=dtype))
    return [out]


@_check(
    "init_shm_manager",
    "join_shm_manager",
    "shm_allreduce",
    "shm_gather",
    "shm_all_gather",
    dtypes=(torch.bfloat16,),
)
def _group_of_one(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    name = f"self-test-{os.getpid()}"
    handle = ops.init_shm_manager(name, 1, 0, 1)
    ops.join_shm_manager(handle, name)
    x = torch.randn(3, 67, dtype=dtype)
    summed, gathered, whole = x.clone(), torch.empty_like(x), torch.empty_like(x)
    ops.shm_allreduce(handle, summed)
    ops.shm_gather(handle, x, [gathered], 0)
    ops.shm_all_gather(handle, x, whole)
    return [summed, gathered, whole]


@_check("shm_send_tensor_list", "shm_recv_tensor_list", dtypes=(torch.bfloat16,))
def _messages(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Both ranks in this process: what is sent waits until it is received."""
    name = f"self-test-messages-{os.getpid()}"
    handles = [ops.init_shm_manager(name, 2, rank, 1) for rank in range(2)]
    for handle in handles:
        ops.join_shm_manager(handle, name)
    sent = [torch.randn(3, 67, dtype=dtype).t(), torch.arange(5), torch.empty(0, 4)]
    ops.shm_send_tensor_list(handles[0], sent, 1)
    return list(ops.shm_recv_tensor_list(handles[1], 0))


@_check("greedy_argmax", "fused_gumbel_argmax", dtypes=(torch.float32,))
def _choice(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    logits = torch.randn(5, 1003, dtype=dtype)
    return [ops.greedy_argmax(logits), ops.fused_gumbel_argmax(logits, torch.arange(5))]


@_check(
    "rejection_greedy_sample_kernel_impl",
    "rejection_random_sample_kernel_impl",
    "sample_recovered_tokens_kernel_impl",
    "expand_kernel_impl",
    dtypes=(torch.float32,),
)
def _drafted(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Three requests with two, none and three drafted tokens."""
    vocabulary, ends = 83, torch.tensor([2, 2, 5])
    draft, bonus = torch.randint(vocabulary, (5,)), torch.randint(vocabulary, (3, 1))
    target = torch.where(torch.rand(5) < 0.6, draft, 0)
    probs = [torch.rand(5, vocabulary, dtype=dtype).softmax(1) for _ in range(2)]
    inv_q = torch.rand(3, vocabulary, dtype=dtype)
    greedy, random = torch.full((3, 4), -1), torch.full((3, 4), -1)
    recovered, spread = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    ops.rejection_greedy_sample_kernel_impl(greedy, ends, draft, target, bonus, None, 3)
    ops.sample_recovered_tokens_kernel_impl(
        recovered, ends, draft, *probs, inv_q, vocabulary, False
    )
    ops.rejection_random_sample_kernel_impl(
        random, ends, draft, *probs, bonus, recovered, torch.rand(5), None, 3, vocabulary, False
    )
    ops.expand_kernel_impl(spread, bonus.flatten(), ends, 0, 7)
    return [greedy, recovered, random, spread]


@_check(
    "eagle_prepare_inputs_padded_kernel_impl",
    "eagle_prepare_next_token_padded_kernel_impl",
    "eagle_step_slot_mapping_metadata_kernel_impl",
    dtypes=(torch.int64,),
)
def _drafting(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Three requests with two, none and three drafted tokens."""
    ends, valid = torch.tensor([2, 2, 5]), torch.tensor([1, 1, 3])
    starts = torch.tensor([0, 3, 4, 8], dtype=torch.int32)
    index, rejected = torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=dtype)
    ops.eagle_prepare_inputs_padded_kernel_impl(ends, valid, starts, index, rejected, 3)
    sampled, discard = torch.randint(-1, 9, (3, 4)), torch.tensor([False, True, False])
    token, count = torch.zeros(3, dtype=dtype), torch.zeros(3, dtype=dtype)
    ops.eagle_prepare_next_token_padded_kernel_impl(sampled, discard, ends, token, count, 7, 4, 3)
    table, lengths = torch.randint(50, (3, 4)).int(), torch.tensor([9, 30, 63]).int()
    moved, slots = torch.zeros(3, dtype=dtype), torch.zeros(5, dtype=dtype)
    ops.eagle_step_slot_mapping_metadata_kernel_impl(
        torch.tensor([8, 29, 63]), table, lengths, moved, slots, 16, 64, -1
    )
    return [index, rejected, token, count, moved, slots, lengths]


@_check(
    "causal_conv1d_weight_pack",
    "causal_conv1d_fwd_cpu",
    "causal_conv1d_update_cpu",
    "causal_conv1d_update_cpu_vec",
)
def _causal_conv1d(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Two prompts, then a token of each, then three drafted ones, two of which were accepted."""
    dim = 67
    weight, bias = torch.randn(dim, 4, dtype=dtype), torch.randn(dim, dtype=dtype)
    states = torch.randn(3, 6, dim, dtype=dtype).transpose(1, 2)
    starts, slots = torch.tensor([0, 2, 9]).int(), torch.tensor([2, 0]).int()
    packed = ops.causal_conv1d_weight_pack(weight)
    prompts = torch.randn(9, dim, dtype=dtype).t()
    first = ops.causal_conv1d_fwd_cpu(
        prompts, packed, bias, states, starts, slots, torch.tensor([True, False]), True, -1, True
    )
    one = ops.causal_conv1d_update_cpu(
        torch.randn(2, dim, dtype=dtype), states, packed, bias, True, None, slots, -1, True
    )
    drafted = ops.causal_conv1d_update_cpu(
        torch.randn(2, 3, dim, dtype=dtype), states, weight, None, False,
        torch.tensor([2, 1]).int(), slots, -1, False,
    )  # fmt: skip
    narrow = states[:, :, :3].clone()
    last = ops.causal_conv1d_update_cpu_vec(
        prompts.t(), narrow, weight, bias, "silu", slots, starts, -1
    )
    return [packed, first, one, drafted, last, states, narrow]


@_check(
    "fused_gdn_gating_cpu",
    "chunk_gated_delta_rule_cpu",
    "fused_sigmoid_gating_delta_rule_update_cpu",
    "fused_sigmoid_gating_delta_rule_update_spec_cpu",
)
def _gated_delta_rule(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Prompts of 2 and 38 tokens, a token of each, and three drafted ones; heads of 40 and 35."""
    tokens, starts, slots = 40, torch.tensor([0, 2, 40]).int(), torch.tensor([2, 0]).int()
    logs, bias = torch.randn(4), torch.randn(4, dtype=dtype)
    a, b = torch.randn(tokens, 4, dtype=dtype), torch.randn(tokens, 4, dtype=dtype)
    query, key = (torch.randn(1, tokens, 2, 40, dtype=dtype) for _ in range(2))
    value, states = torch.randn(1, tokens, 4, 35, dtype=dtype), torch.randn(4, 4, 40, 35)
    g, beta = ops.fused_gdn_gating_cpu(logs, a, b, bias)
    out, final = ops.chunk_gated_delta_rule_cpu(
        query, key, value, g, beta, states, True, starts, False, True, slots
    )
    one = ops.fused_sigmoid_gating_delta_rule_update_cpu(
        logs, bias, query[:, :2], key[:, :2], value[:, :2], a[:2], b[:2], states, slots,
        torch.tensor([0, 1, 2]).int(), True,
    )  # fmt: skip
    drafted = ops.fused_sigmoid_gating_delta_rule_update_spec_cpu(
        logs, bias, query[0, :3], key[0, :3], value[0, :3], a[:3], b[:3], states,
        torch.tensor([[3, 1, 2]]).int(), torch.tensor([2]).int(), torch.tensor([0, 3]).int(), True,
    )  # fmt: skip
    return [g, beta, out, final, one, drafted, states]


@_check("init_cpu_memory_env", dtypes=(torch.int64,))
def _memory_env(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """No node named: nothing changes in this process."""
    ops.init_cpu_memory_env([])
    return []
