"""Products with 4-bit weights on a CPU: the weights are dequantised, then multiplied."""

from __future__ import annotations

import torch

_BLOCK = 16  # columns whose values of one k lie together


def _nibbles(words: torch.Tensor) -> torch.Tensor:
    """The eight 4-bit values of each word [..., W] int32, lowest bits first: [..., 8 W]."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> shifts) & 15).flatten(-2)


def cpu_gemm_wna16(
    input: torch.Tensor,
    q_weight: torch.Tensor,
    output: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    g_idx: torch.Tensor | None,
    bias: torch.Tensor | None,
    pack_factor: int,
    isa_hint: str,
) -> None:
    """``output = input @ ((q - zeros[g]) * scales[g]) + bias`` in float32, rounded once.

    input [M, K], output [M, N], scales [G, N], bias [N]: float32, bfloat16 or float16, one dtype.
    q_weight [N / 16, 2 K] int32: two words for each k, of 8 columns each; zeros [G, N / 8] int32,
    8 where None. g is ``g_idx`` [K], or k / (K / G) where that is None. ``pack_factor`` is 8;
    ``isa_hint`` names what the engine takes the CPU for. Where this is infinite or NaN, a kernel's
    result is one of the two.
    """
    if pack_factor != 8:
        raise RuntimeError(f"cpu_gemm_wna16: pack_factor is {pack_factor}, want 8 (4-bit weights)")
    depth, columns = input.shape[1], output.shape[1]
    values = _nibbles(q_weight.view(columns // _BLOCK, depth, 2))
    values = values.transpose(0, 1).reshape(depth, columns)
    if g_idx is None:
        group_size = max(1, depth // max(1, scales.shape[0]))
        g_idx = torch.arange(depth, device=input.device) // group_size
    zero = 8 if zeros is None else _nibbles(zeros)[g_idx.long()]
    weight = (values - zero).float() * scales[g_idx.long()].float()
    result = input.float() @ weight
    output.copy_(result if bias is None else result + bias.float())
