"""References of weights of 4 bits with float8 activations (W4A8).

Encoded weights and packed scales are opaque to the engine: here weights are repacked as those of
``marlin_gemm`` and scales are bfloat16, two bytes of a float8 tensor each.
"""

from __future__ import annotations

import torch

from vllm_kernels.reference.wna16 import cuda
from vllm_kernels.reference.wna16.words import repack, split, unpack


def cutlass_encode_and_reorder_int4b(B: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Weights [K / 8, N], int32 words of 8 signed ones along K, as ``cutlass_w4a8_mm`` takes them.

    K and N are multiples of 64.
    """
    return repack(unpack(B, 4, 0) ^ 8, 4).view(B.shape)


def cutlass_encode_and_reorder_int4b_grouped(
    b_tensors: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each expert: [experts, N, K / 8]; and int64 [experts]: words of a matrix."""
    experts, n, words = b_tensors.shape
    encoded = [cutlass_encode_and_reorder_int4b(one.T) for one in b_tensors]
    strides = torch.full((experts,), n * words, device=b_tensors.device)
    return torch.stack(encoded).view(b_tensors.shape), strides


def cutlass_pack_scale_fp8(scales: torch.Tensor) -> torch.Tensor:
    """Scales [..., groups, N], float8_e4m3fn, as bfloat16 in the kernels' order: [..., 2 N]."""
    shape = (-1, 4, 4, 2) if scales.shape[-2] == 1 else (-1, 8, 8)
    blocks = split(scales.to(torch.bfloat16), -1, shape)
    ordered = blocks.transpose(1 - len(shape), 2 - len(shape)).flatten(-len(shape))
    return ordered.contiguous().view(torch.float8_e4m3fn)


def _weight(b: torch.Tensor, packed_scales: torch.Tensor, k: int, n: int) -> torch.Tensor:
    scales = packed_scales.contiguous().view(torch.bfloat16)
    words = b.reshape(k // 16, 2 * n)
    nothing = (None, None, None)  # no scale of all, no zero points, no order
    return cuda._marlin_weight(torch.bfloat16, words, scales, *nothing, cuda.U4B8, n, k)


def cutlass_w4a8_mm(
    A: torch.Tensor,  # noqa: N803
    B: torch.Tensor,  # noqa: N803
    group_scales: torch.Tensor,
    group_size: int,
    channel_scales: torch.Tensor,
    token_scales: torch.Tensor,
    out_type: torch.dtype | None,
    maybe_schedule: str | None,
) -> torch.Tensor:
    """out[m, n] = token_scales[m] channel_scales[n] sum of A[m, k] q[k, n] group_scales[., n].

    Args:
        A: float8_e4m3fn [M, K].
        B: [K / 8, N], encoded.
        group_scales: [K / group_size, 2 N], packed.
        group_size: Rows of K that share a scale.
        channel_scales: float32, N elements.
        token_scales: float32, M elements.
        out_type: bfloat16, or None for it.
        maybe_schedule: Not used.
    """
    if out_type not in (None, torch.bfloat16):
        raise RuntimeError("cutlass_w4a8_mm: out_type is not bfloat16")
    weight = _weight(B, group_scales, A.shape[1], B.shape[1])
    product = A.double() @ weight * channel_scales.double().view(1, -1)
    return (product * token_scales.double().view(-1, 1)).to(torch.bfloat16)


def cutlass_w4a8_moe_mm(
    out_tensors: torch.Tensor,
    a_tensors: torch.Tensor,
    b_tensors: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    b_group_scales: torch.Tensor,
    b_group_size: int,
    expert_offsets: torch.Tensor,
    problem_sizes: torch.Tensor,
    a_strides: torch.Tensor,
    b_strides: torch.Tensor,
    c_strides: torch.Tensor,
    group_scale_strides: torch.Tensor,
    maybe_schedule: str | None,
) -> None:
    """``cutlass_w4a8_mm`` of each expert's rows; others stay as they are.

    Args:
        out_tensors: bfloat16 [rows, N], written.
        a_tensors: float8_e4m3fn [rows, K].
        b_tensors: [experts, N, K / 8], encoded.
        a_scales: float32, rows elements.
        b_scales: float32, experts * N elements.
        b_group_scales: [experts, K / b_group_size, 2 N], packed.
        b_group_size: Rows of K that share a scale.
        expert_offsets: int64 [experts]: first row.
        problem_sizes: int32 [experts, 3]: columns, rows, depth.
        a_strides: Not used, as the other strides and ``maybe_schedule``.
    """
    n = out_tensors.shape[1]
    channels = b_scales.reshape(-1, n)
    for expert, first in enumerate(expert_offsets.tolist()):
        rows = slice(first, first + max(int(problem_sizes[expert, 1]), 0))
        words = b_tensors[expert].reshape(-1, n)
        out_tensors[rows] = cutlass_w4a8_mm(
            a_tensors[rows],
            words,
            b_group_scales[expert],
            b_group_size,
            channels[expert],
            a_scales.reshape(-1)[rows],
            None,
            None,
        )
