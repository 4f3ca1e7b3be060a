"""Products of float8 or int8 matrices with scales (W8A8)."""

from __future__ import annotations

import torch

BLOCK = 128


def _plain(scales: torch.Tensor, count: int) -> bool:
    return scales.numel() in (1, count)


def _by_blocks(
    a: torch.Tensor, b: torch.Tensor, a_scales: torch.Tensor, b_scales: torch.Tensor
) -> torch.Tensor:
    """Sum over blocks of 128 along K of their products, each with its scales; float32 [M, N]."""
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float32, device=a.device)
    columns = b_scales.repeat_interleave(BLOCK, dim=1)[:, : b.shape[1]]
    for block, start in enumerate(range(0, a.shape[1], BLOCK)):
        along = slice(start, start + BLOCK)
        product = a[:, along].float() @ b[along].float()
        total += product * a_scales[:, block, None] * columns[block]
    return total


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Exact for int8: its sums are below 2^53."""
    if a.dtype == torch.int8:
        return a.double() @ b.double()
    return a.float() @ b.float()


def _scaled(
    out: torch.Tensor,
    sums: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    values = sums.float() * b_scales.reshape(1, -1) * a_scales.reshape(-1, 1)
    out.copy_(values if bias is None else values + bias.float())


def cutlass_scaled_mm(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """``out = (a * a_scales) @ (b * b_scales) + bias``.

    Args:
        out: [M, N], bfloat16 or float16.
        a: [M, K], float8_e4m3fn or int8.
        b: [K, N], dtype of ``a``.
        a_scales: float32, 1 or M elements; or [M, ceil(K / 128)] for 128 elements of a row each.
        b_scales: float32, 1 or N elements; or [ceil(K / 128), ceil(N / 128)] for blocks of
            128 x 128.
        bias: [N], dtype of ``out``.
    """
    if _plain(a_scales, a.shape[0]) and _plain(b_scales, b.shape[1]):
        _scaled(out, _product(a, b), a_scales, b_scales, bias)
        return
    wanted = [-(-size // BLOCK) for size in b.shape]
    if (
        a.dtype == torch.int8
        or bias is not None
        or list(a_scales.shape) != [a.shape[0], wanted[0]]
        or list(b_scales.shape) != wanted
    ):
        raise RuntimeError(
            f"cutlass_scaled_mm: a_scales {list(a_scales.shape)} and b_scales "
            f"{list(b_scales.shape)} fit no way of scaling {list(a.shape)} and {list(b.shape)}"
        )
    out.copy_(_by_blocks(a, b, a_scales, b_scales))


def cutlass_scaled_mm_azp(
    out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    azp_adj: torch.Tensor,
    azp: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> None:
    """As cutlass_scaled_mm for int8, with ``a @ b - azp * azp_adj`` in the sums' place.

    Args:
        azp_adj: [N] int32, sums of the columns of ``b``; where ``azp`` is None, times the zero
            point that all of ``a`` has. The difference is an int32: sums of columns and zero
            points of 8 bits do not pass it below 130,000 of K.
        azp: [M] int32, zero points of the rows of ``a``.
    """
    excess = azp_adj.double().reshape(1, -1)
    if azp is not None:
        excess = azp.double().reshape(-1, 1) * excess
    _scaled(out, _product(a, b) - excess, a_scales, b_scales, bias)
