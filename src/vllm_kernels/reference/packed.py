"""Products with weights that the caller packs: here packed weights are a contiguous copy."""

from __future__ import annotations

import torch


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
    scales = scales2.repeat_interleave(min(block_size[0], mat2.shape[0]), 0)[: mat2.shape[0]]
    scales = scales.repeat_interleave(min(block_size[1], mat2.shape[1]), 1)[:, : mat2.shape[1]]
    return _product(mat1, mat2.float() * scales, bias).to(out_dtype)


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
