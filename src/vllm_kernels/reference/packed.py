"""Products with weights that the caller packs: here packed weights are a contiguous copy."""

from __future__ import annotations

import torch

from vllm_kernels.reference.quant import dynamic_scaled_int8_quant, times_blocks
from vllm_kernels.reference.wna16.words import awq_columns, unpack


def convert_weight_packed(weight: torch.Tensor) -> torch.Tensor:
    """What the products below and ``fused_experts_cpu`` take for ``weight``.

    [N, K] or [experts, N, K]: float32, bfloat16, float16, int8, float8_e4m3fn, or uint8 that holds
    two 4-bit values of K each. The result has its shape and dtype.
    """
    return weight.clone(memory_format=torch.contiguous_format)


def convert_scale_packed(scale: torch.Tensor) -> torch.Tensor:
    """What ``fused_experts_cpu`` takes for ``scale`` [experts, N, K / 32] uint8."""
    return scale.clone(memory_format=torch.contiguous_format)


def _product(mat1: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    result = mat1.float() @ weight.float().t()
    return result if bias is None else result + bias.float()


def weight_packed_linear(
    out: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    bias: torch.Tensor | None,
    is_vnni: bool,
) -> None:
    """``out = mat1 @ mat2.T + bias`` in float32, rounded once.

    out [M, N], mat1 [M, K], mat2 [N, K]: float32, bfloat16 or float16, one dtype; bias [N], float32
    or their dtype. ``is_vnni``: mat2 is from ``convert_weight_packed``.
    """
    out.copy_(_product(mat1, mat2, bias))


def bmm_cpu(
    out: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    is_vnni: bool,
    scale: torch.Tensor | None,
) -> None:
    """``out[b] = mat1[b] @ mat2[b].T`` in float32, rounded once.

    out [B, M, N], mat1 [B, M, K]: float32, bfloat16 or float16, one dtype; mat2 [B, N, K], their
    dtype, or float8_e4m3fn that is multiplied by ``scale``, one value in float32. ``is_vnni``: mat2
    is from ``convert_weight_packed``.
    """
    if (mat2.dtype == torch.float8_e4m3fn) != (scale is not None):
        raise RuntimeError("bmm_cpu: want a scale with mat2 of float8, and none otherwise")
    result = torch.bmm(mat1.float(), mat2.float().transpose(1, 2))
    out.copy_(result if scale is None else result * scale)


def fp8_scaled_mm_cpu(
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    scales2: torch.Tensor,
    block_size: list[int],
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
    is_vnni: bool,
) -> torch.Tensor:
    """``mat1 @ (mat2 * scales2 of the block).T + bias`` in float32, rounded to ``out_dtype``.

    mat1 [M, K] float32, bfloat16 or float16; mat2 [N, K] float8_e4m3fn; scales2 float32, one for
    each block of ``block_size`` = [n, k] weights, the last blocks narrower; bias [N], float32 or
    mat1's dtype.
    """
    if len(block_size) != 2:
        raise RuntimeError(f"fp8_scaled_mm_cpu: block_size has {len(block_size)} elements, want 2")
    return _product(mat1, times_blocks(mat2, scales2, block_size), bias).to(out_dtype)


def int8_scaled_mm_with_quant(
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    scales2: torch.Tensor,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype,
    is_vnni: bool,
) -> torch.Tensor:
    """``mat1 @ (mat2 * scales2).T + bias`` in float32, rounded to ``out_dtype``.

    As ``fp8_scaled_mm_cpu``, with mat2 int8 and one scale for each of its N rows. mat1 keeps its
    precision: it is not rounded to int8.
    """
    return _product(mat1, mat2.float() * scales2.reshape(-1, 1), bias).to(out_dtype)


def convert_weight_packed_scale_zp(
    weight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, quant_method_4bit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, zero points and scales of 4-bit integers as the products below take them.

    Eight values an int32: with method 0 (AWQ) weight [K, N / 8] in AWQ's order; with 1 (GPTQ)
    [K / 8, N], and zero points less 1. qzeros [G, N / 8], scales [G, N]; experts may come first.
    The results, uint8 [N / 32, K / 8, 128], int8 and float32 [N / 32, G, 32], hold 64 columns
    together, the last ones 32; a byte, value i of eight along K and value i + 4.
    """
    awq = quant_method_4bit == 0
    if quant_method_4bit not in (0, 1):
        raise RuntimeError(
            f"convert_weight_packed_scale_zp: quant_method_4bit is {quant_method_4bit}, "
            "want 0 (AWQ) or 1 (GPTQ)"
        )
    if awq:
        values, zeros = awq_columns(weight, 4), awq_columns(qzeros, 4)
    else:
        values, zeros = unpack(weight, 4, -2), unpack(qzeros, 4, -1) + 1

    low, high = values.unflatten(-2, (-1, 2, 4)).unbind(-3)
    words = _panels((low | high << 4).transpose(-1, -2), -2).to(torch.uint8)
    *experts, groups, columns = zeros.shape
    size = (*experts, columns // 32, groups, 32)
    return (
        words.reshape(*experts, columns // 32, values.shape[-2] // 8, 128),
        _panels(zeros, -1).to(torch.int8).reshape(size),
        _panels(scales, -1).float().reshape(size),
    )


def _panels(matrix: torch.Tensor, columns: int) -> torch.Tensor:
    """The 64 columns of one panel after the other, row by row; the last ones may be 32."""
    parts = matrix.split(64, columns)
    return torch.cat([part.flatten(columns - 1) for part in parts], -1)


def _from_panels(packed: torch.Tensor, rows: int, unit: int) -> torch.Tensor:
    """[R, N, ``unit``] of one matrix."""
    columns = packed.shape[0] * 32
    flat, parts = packed.reshape(-1), []
    for first in range(0, columns, 64):
        width = min(64, columns - first)
        part = flat[first * rows * unit : (first + width) * rows * unit]
        parts.append(part.view(rows, width, unit))
    return torch.cat(parts, 1) if parts else packed.new_empty((rows, 0, unit))


def unpack_int4(w: torch.Tensor, w_zeros: torch.Tensor, w_scales: torch.Tensor) -> torch.Tensor:
    """[K, N] float32 of one matrix from ``convert_weight_packed_scale_zp``."""
    words, groups = w.shape[1], w_scales.shape[1]
    bytes_ = _from_panels(w, words, 4).transpose(1, 2)
    values = torch.stack((bytes_ & 15, bytes_ >> 4), 1).flatten(0, 2)
    size = words * 8 // max(1, groups)
    zeros, scales = (
        _from_panels(x, groups, 1).squeeze(2).float().repeat_interleave(size, 0)
        for x in (w_zeros, w_scales)
    )
    return (values.float() - zeros) * scales


def rounded_to_int8(x: torch.Tensor) -> torch.Tensor:
    """Each row of ``x``, rounded to multiples of its largest magnitude / 127; float32."""
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    dynamic_scaled_int8_quant(q, x, scale, None)
    return q.float() * scale


def int4_scaled_mm_cpu(
    x: torch.Tensor,
    w: torch.Tensor,
    w_zeros: torch.Tensor,
    w_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """``x``, rounded to int8 row by row, times ``(q - zero) * scale``, plus ``bias`` (W4A8).

    x [M, K] float32, bfloat16 or float16; w, w_zeros and w_scales from
    ``convert_weight_packed_scale_zp``; bias [N], float32 or x's dtype. Result [M, N], x's dtype.
    """
    result = rounded_to_int8(x) @ unpack_int4(w, w_zeros, w_scales)
    return (result if bias is None else result + bias.float()).to(x.dtype)
