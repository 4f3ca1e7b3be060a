"""References of the experts' products with scales of blocks; see csrc/cuda/moe_gemm/moe_gemm.h."""

from __future__ import annotations

import torch

from vllm_kernels.reference.quant import times_blocks

_BLOCK = 128


def _product(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor
) -> torch.Tensor:
    """Of one expert, float32 [rows, n]."""
    left = times_blocks(a, a_scales, (1, _BLOCK))
    return left @ times_blocks(b, b_scales, (_BLOCK, _BLOCK)).t()


def grouped_mm_labelled(
    out: torch.Tensor,
    a: torch.Tensor,
    a_scales: torch.Tensor,
    b: torch.Tensor,
    b_scales: torch.Tensor,
    labels: torch.Tensor,
    alignment: int,
) -> None:
    """The rows of each expert times its weights, where ``labels`` say whose a row is.

    Args:
        out: bfloat16 [rows, n], written: those of ``alignment`` rows whose first has a label, up to
            the last that has one.
        a: float8_e4m3fn [rows, k].
        a_scales: float32 [rows, ceil(k / 128)].
        b: float8_e4m3fn [experts, n, k].
        b_scales: float32 [experts, ceil(n / 128), ceil(k / 128)].
        labels: int32 [rows]; those of each ``alignment`` rows are one expert's, and negative at the
            end. Where they disagree, the results are unspecified.
        alignment: A multiple of 16.
    """
    whose = labels.tolist()
    for begin in range(0, len(whose), alignment):
        expert = whose[begin]
        if not 0 <= expert < len(b):
            continue
        part = whose[begin : begin + alignment]
        used = max(at for at, label in enumerate(part) if label >= 0) + 1
        rows = slice(begin, begin + used)
        out[rows] = _product(a[rows], a_scales[rows], b[expert], b_scales[expert]).to(out.dtype)


def grouped_mm_counted(
    out: torch.Tensor,
    a: torch.Tensor,
    a_scales: torch.Tensor,
    b: torch.Tensor,
    b_scales: torch.Tensor,
    counts: torch.Tensor,
    expected: int,
) -> None:
    """The first rows of each expert times its weights.

    Args:
        out: bfloat16 [experts, rows, n], written: the first ``counts`` rows of each expert.
        a: float8_e4m3fn [experts, rows, k].
        a_scales: float32 [experts, rows, ceil(k / 128)].
        b: float8_e4m3fn [experts, n, k].
        b_scales: float32 [experts, ceil(n / 128), ceil(k / 128)].
        counts: int32 [experts].
        expected: About how many rows an expert uses; for speed alone.
    """
    for expert, count in enumerate(counts.tolist()):
        rows = slice(0, max(0, count))
        product = _product(a[expert, rows], a_scales[expert, rows], b[expert], b_scales[expert])
        out[expert, rows] = product.to(out.dtype)
