from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("convert_weight_packed", "convert_scale_packed", "fused_experts_cpu")
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


@check("convert_weight_packed_scale_zp", "fused_experts_cpu")
def _int4_experts(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Integers of 4 bits, in groups of 32, of which most experts get a token or none."""
    hidden, inner, experts, tokens = 96, 64, 4, 5
    x = torch.randn(tokens, hidden, dtype=dtype)
    weights, ids = torch.rand(tokens, experts).topk(2)
    packed = []
    for n, k in ((2 * inner, hidden), (hidden, inner)):
        bits = torch.randint(-(2**31), 2**31, (experts, k // 8, n), dtype=torch.int32)
        zeros = torch.randint(-(2**31), 2**31, (experts, k // 32, n // 8), dtype=torch.int32)
        scales = torch.rand(experts, k // 32, n) / 64
        packed.append(ops.convert_weight_packed_scale_zp(bits, zeros, scales, 1))
    (w1, zero1, scale1), (w2, zero2, scale2) = packed
    out = torch.empty(tokens, hidden, dtype=dtype)
    ops.fused_experts_cpu(
        out, x, w1, w2, weights, ids.to(torch.int32), 3, scale1, scale2, zero1, zero2, None, None,
        None, None, None, None, True, 0,
    )  # fmt: skip
    return [out]


@check("prepack_moe_weight", "cpu_fused_moe")
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


@check("prepack_moe_weight_int8", "cpu_fused_moe_int8")
def _int8_experts(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Weights of int8 that ARM and POWER take; with one expert a token also without its weight."""
    hidden, inner, experts = 96, 64, 4
    packed, scales = [], []
    for shape in ((experts, 2 * inner, hidden), (experts, hidden, inner)):
        weight = torch.randint(-128, 128, shape, dtype=torch.int8)
        packed.append(torch.empty_like(weight))
        ops.prepack_moe_weight_int8(weight, packed[-1], "neon")
        scales.append(torch.rand(*shape[:2], 1) / 1024)
    bias = torch.randn(experts, hidden)
    results = []
    for tokens, slots, act in ((1, 2, "silu"), (9, 1, "swigluoai")):
        x, out = torch.randn(tokens, hidden, dtype=dtype), torch.empty(tokens, hidden, dtype=dtype)
        weights, ids = torch.rand(tokens, experts).topk(slots)
        ops.cpu_fused_moe_int8(
            out, x, *packed, *scales, None, bias, weights, ids.to(torch.int32), slots == 1, act,
            "neon",
        )  # fmt: skip
        results.append(out)
    return results
