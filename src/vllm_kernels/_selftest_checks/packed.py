from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vllm_kernels._selftest_checks.registry import check


@check("convert_weight_packed", "weight_packed_linear")
def _packed_linear(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """A whole panel of 64 columns and a narrower one."""
    a, weight = torch.randn(3, 70, dtype=dtype), torch.randn(80, 70, dtype=dtype) / 8
    bias, out = torch.randn(80, dtype=dtype), torch.empty(3, 80, dtype=dtype)
    ops.weight_packed_linear(out, a, ops.convert_weight_packed(weight), bias, True)
    return [out]


@check("convert_weight_packed", "bmm_cpu")
def _batch(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """Two matrices, of the dtype and of float8, packed and not."""
    a, weight = torch.randn(3, 2, 70, dtype=dtype), torch.randn(2, 80, 70, dtype=dtype) / 8
    coded = torch.randn(2, 80, 70).to(torch.float8_e4m3fn)
    one, other = torch.empty(2, 3, 80, dtype=dtype), torch.empty(2, 3, 80, dtype=dtype)
    ops.bmm_cpu(one, a.transpose(0, 1), ops.convert_weight_packed(weight), True, None)
    ops.bmm_cpu(other, a.transpose(0, 1), coded, False, torch.tensor(0.125))
    return [one, other]


@check("convert_weight_packed", "fp8_scaled_mm_cpu", "int8_scaled_mm_with_quant")
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


@check("convert_weight_packed_scale_zp", "int4_scaled_mm_cpu")
def _int4_linear(ops: Any, dtype: torch.dtype) -> list[Tensor]:
    """A whole panel of 64 columns and half of one, groups of 40, in both orders of words."""
    bits = torch.randint(-(2**31), 2**31, (80, 12), dtype=torch.int32)
    zeros = torch.randint(-(2**31), 2**31, (2, 12), dtype=torch.int32)
    scales = torch.rand(2, 96).to(dtype) / 16
    a, bias = torch.randn(3, 80, dtype=dtype), torch.randn(96)
    awq = ops.convert_weight_packed_scale_zp(bits, zeros, scales, 0)
    gptq = ops.convert_weight_packed_scale_zp(bits.view(10, 96), zeros, scales, 1)
    return [
        ops.int4_scaled_mm_cpu(a, *awq, bias),
        ops.int4_scaled_mm_cpu(a, *gptq, None),
    ]
