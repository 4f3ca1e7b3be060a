"""Each op's arguments as the C ABI takes them: what csrc/cpu/*/binding.cc does, for the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from driver import DTYPES, Driver


def refuse(op: str, wrong: bool, what: str) -> None:
    """What the bindings find wrong before they call the C ABI."""
    if wrong:
        raise RuntimeError(f"{op}: {what}")


def implementations(driver: Driver) -> dict[str, Callable[..., Any]]:
    """By op: a function that calls the driver instead of the library.

    An op that has the name of a function has its arguments too, unless it is named here.
    """

    def plain(name: str, op: str = "") -> Callable[..., None]:
        schema = getattr(torch.ops.vllm_kernels, op or name).default._schema

        def call(*values: object) -> None:
            left_out = schema.arguments[len(values) :]
            driver.call(name, *values, *(argument.default_value for argument in left_out))

        return call

    def attention(
        q: object, k: object, v: object, out: object, starts: object, lengths: object,
        scale: float, causal: bool, slopes: object, window: int, table: object, softcap: float,
        _metadata: object, sinks: object, dynamic: object, k_scale: float = 1.0,
        v_scale: float = 1.0, cache_dtype: str = "auto",
    ) -> None:  # fmt: skip
        driver.call(
            "attention", q, k, v, out, starts, lengths, table, slopes, sinks, dynamic,
            float(scale), float(softcap), window, causal, float(k_scale),
            float(v_scale), cache_dtype,
        )  # fmt: skip

    def metadata(
        requests: int, heads: int, kv_heads: int, head_size: int, lengths: torch.Tensor, *_: object
    ) -> torch.Tensor:
        words = driver.call("attention_metadata", requests, heads, kv_heads, head_size)[1]
        return torch.tensor(words, dtype=torch.int32).view(torch.int8)

    def reshape(
        key: object, value: object, key_cache: object, value_cache: object, slots: object,
        isa: str, k_scale: float = 1.0, v_scale: float = 1.0, dtype: str = "auto",
    ) -> None:  # fmt: skip
        driver.call(
            "reshape_and_cache", key, value, key_cache, value_cache, slots, isa, float(k_scale),
            float(v_scale), dtype,
        )  # fmt: skip

    def create(b: object, _cache: int) -> int:
        return driver.call("create_onednn_mm_handler", b)[0]

    def create_scaled(
        b: object, scales: object, dtype: torch.dtype, dynamic: bool, azp: bool, _cache: int
    ) -> int:
        number = DTYPES.get(dtype, -1)
        return driver.call("create_onednn_scaled_mm_handler", b, scales, number, dynamic, azp)[0]

    def choose(name: str) -> Callable[..., torch.Tensor]:
        def call(logits: torch.Tensor, *values: object) -> torch.Tensor:
            tokens = logits.new_empty(logits.shape[:1], dtype=torch.int64)
            driver.call(name, tokens, logits, *values)
            return tokens

        return call

    def convert(weight: torch.Tensor) -> torch.Tensor:
        driver.call("convert_weight_packed", weight, None)
        packed = torch.empty(weight.shape, dtype=weight.dtype)
        driver.call("convert_weight_packed", weight, packed)
        return packed

    def convert_scale(scale: torch.Tensor) -> torch.Tensor:
        driver.call("convert_scale_packed", scale, None)
        packed = torch.empty(scale.shape, dtype=scale.dtype)
        driver.call("convert_scale_packed", scale, packed)
        return packed

    def experts(*values: Any) -> None:
        (out, x, w1, w2, weights, ids, method, scale1, scale2, zero1, zero2, _, block, bias1, bias2,
         alpha, limit, _, act) = values  # fmt: skip
        driver.call(
            "fused_experts", out, x, w1, w2, weights, ids, method, scale1, scale2, zero1, zero2,
            *(block or (0, 0)), bias1, bias2, act, 1.702 if alpha is None else float(alpha),
            7.0 if limit is None else float(limit),
        )  # fmt: skip

    def fp8(
        mat1: torch.Tensor, mat2: torch.Tensor, scales: object, block: Sequence[int],
        bias: object, dtype: torch.dtype, packed: bool,
    ) -> torch.Tensor:  # fmt: skip
        if len(block) != 2:
            raise RuntimeError(f"fp8_scaled_mm_cpu: block_size has {len(block)} elements, want 2")
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise RuntimeError("fp8_scaled_mm_cpu: out_dtype is another dtype")
        out = torch.empty(mat1.shape[0], mat2.shape[0], dtype=dtype)
        driver.call("fp8_scaled_mm", out, mat1, mat2, scales, *block, bias, packed)
        return out

    def int8(
        mat1: torch.Tensor, mat2: torch.Tensor, scales: object, bias: object,
        dtype: torch.dtype, packed: bool,
    ) -> torch.Tensor:  # fmt: skip
        out = torch.empty(mat1.shape[0], mat2.shape[0], dtype=dtype)
        driver.call("int8_scaled_mm", out, mat1, mat2, scales, bias, packed)
        return out

    def convert_int4(
        weight: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, method: int
    ) -> tuple[torch.Tensor, ...]:
        driver.call("convert_int4", weight, zeros, scales, method, None, None, None)
        *experts, groups, columns = scales.shape
        words = weight.shape[-2] if method == 1 else weight.shape[-2] // 8
        size = (*experts, columns // 32, groups, 32)
        packed = (
            torch.empty((*experts, columns // 32, words, 128), dtype=torch.uint8),
            torch.empty(size, dtype=torch.int8),
            torch.empty(size, dtype=torch.float32),
        )
        driver.call("convert_int4", weight, zeros, scales, method, *packed)
        return packed

    def int4(x: torch.Tensor, weight: torch.Tensor, *values: Any) -> torch.Tensor:
        out = torch.empty(x.shape[0], weight.shape[0] * 32, dtype=x.dtype)
        driver.call("int4_scaled_mm", out, x, weight, *values)
        return out

    def pack(weight: torch.Tensor) -> torch.Tensor:
        return weight.t().contiguous().t()

    def convolve(x: torch.Tensor, *values: Any) -> torch.Tensor:
        out = x.new_zeros(x.shape[::-1]).t()
        driver.call("causal_conv1d_fwd", out, x, *values[:-1])
        return out

    def convolve_next(x: torch.Tensor, *values: Any) -> torch.Tensor:
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        driver.call("causal_conv1d_update", out, x, *values[:-1])
        return out

    def convolve_some(x: torch.Tensor, *values: Any) -> torch.Tensor:
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        driver.call("causal_conv1d_update_vec", out, x, *values)
        return out

    def static_fp8(
        result: object, x: object, scale: object, group_shape: Sequence[int] | None = None
    ) -> None:
        if group_shape is not None and len(group_shape) != 2:
            raise RuntimeError(
                f"static_scaled_fp8_quant: group_shape has {len(group_shape)} elements, want 2"
            )
        driver.call("static_scaled_fp8_quant", result, x, scale, group_shape)

    def gates(
        a_log: object, a: torch.Tensor, b: torch.Tensor, dt_bias: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        g, beta = a.new_zeros((1, *a.shape), dtype=torch.float32), b.new_zeros((1, *a.shape))
        driver.call("fused_gdn_gating", g, beta, a_log, a, b, dt_bias)
        return g, beta

    def delta_rule(
        q: object, k: object, v: torch.Tensor, g: object, beta: object, states: torch.Tensor,
        final: bool, starts: object, head_first: bool, normalise: bool, slots: torch.Tensor,
        epsilon: float = 1e-5,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        out = torch.zeros_like(v, memory_format=torch.contiguous_format)
        count = len(slots) if final else 0
        last = states.new_zeros((count, *states.shape[1:]), dtype=torch.float32)
        driver.call(
            "chunk_gated_delta_rule", out, last, q, k, v, g, beta, states, starts, head_first,
            normalise, slots, float(epsilon),
        )  # fmt: skip
        return out, last

    def delta_rule_next(name: str) -> Callable[..., torch.Tensor]:
        def call(*values: Any) -> torch.Tensor:
            v = values[4]
            out = torch.zeros_like(v, memory_format=torch.contiguous_format)
            left_out = {11: (1.0, 20.0), 12: (20.0,), 13: ()}
            if name.endswith("spec"):
                left_out = {12: (1.0, 20.0), 13: (20.0,), 14: ()}
            driver.call(name, out, *values, *left_out[len(values)])
            spread = v.dim() == 4 and not name.endswith("spec")
            return out.transpose(0, 1) if spread else out

        return call

    def multiply(name: str) -> Callable[..., None]:
        def call(*values: Any) -> None:
            handle = values[-1]
            if handle.dtype != torch.int64 or handle.numel() != 1:
                raise RuntimeError(
                    f"{name}: handler_tensor is not what holds a handle, want a CPU tensor of "
                    "one int64"
                )
            driver.call(name, *values[:-1], int(handle))

        return call

    def decode_rows(
        query: object, k_buffer: object, v_buffer: object, out: object, key: object, value: object,
        loc: object, _logits: object, table: object, pool: object, lengths: object, scale: float,
        softcap: float, cross: bool, window: int, encoder: object, sinks: object,
    ) -> None:  # fmt: skip
        op, written = (
            "decode_attention_cpu",
            "none: the buffers hold the new tokens' keys and values",
        )
        for name, given in (("key", key), ("value", value), ("loc", loc)):
            refuse(op, given is not None, f"{name} is given, want {written}")
        refuse(op, cross, "is_cross_attn is given, want false")
        refuse(op, encoder is not None, "encoder_lens is given, want none")
        driver.call(
            "decode_attention", query, out, k_buffer, v_buffer, table, pool, lengths, sinks,
            None, None, None, None, float(scale), float(softcap), window,
        )  # fmt: skip

    def extend_rows(
        query: object, k_extend: object, v_extend: object, out: object, k_buffer: object,
        v_buffer: object, table: object, pool: object, lengths: object, new_lengths: object,
        starts: object, _longest: int, scale: float, softcap: float, cross: bool, window: int,
        encoder: object, sinks: object, tree: object = None,
    ) -> None:  # fmt: skip
        op = "extend_attention_cpu"
        refuse(op, cross, "is_cross_attn is given, want false")
        refuse(op, encoder is not None, "encoder_lens is given, want none")
        refuse(op, tree is not None, "tree_mask is given, want none")
        for name, missing in (("k_extend", k_extend is None), ("v_extend", v_extend is None)):
            refuse(op, missing, f"{name} is missing, want a tensor")
        driver.call(
            "extend_attention", query, out, k_buffer, v_buffer, table, pool, lengths, sinks,
            k_extend, v_extend, new_lengths, starts, float(scale), float(softcap), window,
        )  # fmt: skip

    def routes(op: str, logits: torch.Tensor, topk: int, shared: int) -> tuple[torch.Tensor, ...]:
        dims = f"gating_output has {logits.dim()} dimensions, want 2: [tokens, experts]"
        refuse(op, logits.dim() != 2, dims)
        refuse(op, shared != 0, f"num_fused_shared_experts is {shared}, want 0")
        size = (len(logits), topk)
        refuse(op, topk < 0, f"topk_weights would be of shape {list(size)}")
        return logits.new_empty(size, dtype=torch.float32), torch.empty(size, dtype=torch.int32)

    def biased_topk(
        hidden: torch.Tensor, logits: torch.Tensor, bias: object, topk: int, renormalize: bool,
        scoring: str, shared: int, factor: float | None, scaled: bool,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        op = "biased_topk_cpu"
        made = routes(op, logits, topk, shared)
        others = hidden.dim() == 0 or len(hidden) != len(logits)
        refuse(op, others, "hidden_states has other tokens than gating_output")
        factor = 1.0 if factor is None or not scaled else float(factor)
        driver.call("biased_topk", *made, logits, bias, scoring, renormalize, factor)
        return made

    def hash_topk(
        logits: torch.Tensor, table: object, topk: int, scoring: str, shared: int, experts: int,
        factor: float,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        op = "hash_topk_cpu"
        made = routes(op, logits, topk, shared)
        want = f"num_experts is {experts}, want the {logits.shape[1]} of gating_output"
        refuse(op, logits.shape[1] != experts, want)
        driver.call("hash_topk", *made, logits, table, scoring, float(factor))
        return made

    same_name = [name for name in driver.functions() if hasattr(torch.ops.vllm_kernels, name)]
    return {
        **{name: plain(name) for name in same_name},
        "static_scaled_fp8_quant": static_fp8,
        "mamba_chunk_scan_fwd_cpu": plain("mamba_chunk_scan", "mamba_chunk_scan_fwd_cpu"),
        "selective_state_update_cpu": plain("selective_state_update", "selective_state_update_cpu"),
        "cpu_attention_with_kv_cache": attention,
        "get_scheduler_metadata": metadata,
        "cpu_attn_reshape_and_cache": reshape,
        "cpu_fused_moe": plain("fused_moe", "cpu_fused_moe"),
        "cpu_fused_moe_int8": plain("fused_moe_int8", "cpu_fused_moe_int8"),
        "mla_decode_kvcache": plain("mla_decode", "mla_decode_kvcache"),
        "decode_attention_cpu": decode_rows,
        "extend_attention_cpu": extend_rows,
        "concat_and_cache_mla_cpu": plain("concat_and_cache_mla", "concat_and_cache_mla_cpu"),
        "bmm_cpu": plain("bmm", "bmm_cpu"),
        "biased_topk_cpu": biased_topk,
        "hash_topk_cpu": hash_topk,
        "cpu_gemm_wna16": plain("gemm_wna16", "cpu_gemm_wna16"),
        "convert_weight_packed": convert,
        "convert_scale_packed": convert_scale,
        "fused_experts_cpu": experts,
        "convert_weight_packed_scale_zp": convert_int4,
        "int4_scaled_mm_cpu": int4,
        "fp8_scaled_mm_cpu": fp8,
        "int8_scaled_mm_with_quant": int8,
        "causal_conv1d_weight_pack": pack,
        "causal_conv1d_fwd_cpu": convolve,
        "causal_conv1d_update_cpu": convolve_next,
        "causal_conv1d_update_cpu_vec": convolve_some,
        "fused_gdn_gating_cpu": gates,
        "chunk_gated_delta_rule_cpu": delta_rule,
        "fused_sigmoid_gating_delta_rule_update_cpu": delta_rule_next("gated_delta_rule_update"),
        "fused_sigmoid_gating_delta_rule_update_spec_cpu": delta_rule_next(
            "gated_delta_rule_update_spec"
        ),
        "greedy_argmax": choose("greedy_argmax"),
        "fused_gumbel_argmax": choose("fused_gumbel_argmax"),
        **{
            f"{name}{suffix}": plain(name, f"{name}{suffix}")
            for suffix in ("_kernel_impl", "_padded_kernel_impl", "_metadata_kernel_impl")
            for name in driver.functions()
            if hasattr(torch.ops.vllm_kernels, f"{name}{suffix}")
        },
        "create_onednn_mm_handler": create,
        "onednn_mm": multiply("onednn_mm"),
        "create_onednn_scaled_mm_handler": create_scaled,
        "onednn_scaled_mm": multiply("onednn_scaled_mm"),
        "cpu_attn_has_isa": lambda isa: bool(driver.call("attention_has_isa", isa)[1][0]),
        "is_onednn_acl_supported": lambda: False,
    }
