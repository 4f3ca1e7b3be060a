"""Products with weights of which two of every four neighbours are zero (2:4).

The engine has had no such op since 0.13, so these are ours alone.
"""

from __future__ import annotations

import torch

# Metadata comes in blocks of that many rows; columns are filled up.
_BLOCK_ROWS, _FILLED_COLUMNS = 64, 128


def metadata_bytes(n: int, k: int) -> int:
    """Size of the metadata of a weight [N, K]: a byte for eight elements of whole blocks."""
    blocks = -(-n // _BLOCK_ROWS) * -(-k // _FILLED_COLUMNS)
    return blocks * _BLOCK_ROWS * _FILLED_COLUMNS // 8


def _places(weight: torch.Tensor) -> torch.Tensor:
    """Of every four neighbours the places of the two of largest magnitude, ascending; of equals
    the first. [N, K / 4, 2]."""
    groups = weight.to(torch.float32).abs().reshape(weight.shape[0], weight.shape[1] // 4, 4)
    order = groups.argsort(dim=2, descending=True, stable=True)
    return order[:, :, :2].sort(dim=2).values


def _offsets(n: int, k: int, item: int, device: torch.device) -> torch.Tensor:
    """Byte of the metadata that has the elements from (row, 8 * i) on; [N, K / 8]."""
    rows = torch.arange(n, device=device).reshape(-1, 1)
    columns = torch.arange(0, k, 8, device=device).reshape(1, -1)
    width = 128 // item
    block = columns // width * -(-n // _BLOCK_ROWS) + rows // _BLOCK_ROWS
    row, column = rows % _BLOCK_ROWS, columns % width
    within = row * width + column
    if item == 2:
        within = (
            row // 8 % 2 * 16
            + column // 32 * 32
            + row % 8 * 64
            + column // 16 % 2 * 512
            + row // 16 * 1024
            + column % 16
        )
    return (block * _BLOCK_ROWS * width + within) // 8


def sparse_compress(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep of every four neighbours in a row the two of largest magnitude.

    Args:
        weight: [N, K], float8_e4m3fn, int8 or bfloat16; N a multiple of 16, K of 32.

    Returns:
        The kept values [N, K / 2], and metadata (uint8) that sparse_scaled_mm reads.
    """
    n, k = weight.shape
    places = _places(weight)
    bits = weight if weight.element_size() > 1 else weight.view(torch.uint8)
    kept = bits.reshape(n, k // 4, 4).gather(2, places).reshape(n, k // 2)
    nibbles = (places[:, :, 0] | places[:, :, 1] << 2).to(torch.uint8)
    metadata = torch.full((metadata_bytes(n, k),), 0x44, dtype=torch.uint8, device=weight.device)
    offsets = _offsets(n, k, weight.element_size(), weight.device)
    metadata[offsets] = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
    return kept.view(weight.dtype), metadata


def dense(values: torch.Tensor, metadata: torch.Tensor) -> torch.Tensor:
    """The weight [N, K] in float32, with zeros where nothing was kept."""
    n, k = values.shape[0], 2 * values.shape[1]
    offsets = _offsets(n, k, values.element_size(), values.device)
    pairs = metadata[offsets].long()
    nibbles = torch.stack((pairs & 15, pairs >> 4), dim=2).reshape(n, k // 4)
    places = torch.stack((nibbles & 3, nibbles >> 2), dim=2)
    groups = torch.zeros(n, k // 4, 4, device=values.device)
    groups.scatter_(2, places, values.float().reshape(n, k // 4, 2))
    return groups.reshape(n, k)


def sparse_scaled_mm(
    out: torch.Tensor,
    a: torch.Tensor,
    values: torch.Tensor,
    metadata: torch.Tensor,
    a_scales: torch.Tensor,
    b_scales: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    """``out = (a * a_scales) @ (weight * b_scales).T + bias``.

    Args:
        out: [M, N], bfloat16 or float16; bfloat16 for such weights.
        a: [M, K], dtype of ``values``.
        values: [N, K / 2], of sparse_compress, as is ``metadata``.
        a_scales: float32, 1 or M elements.
        b_scales: float32, 1 or N elements.
        bias: [N], dtype of ``out``.
    """
    product = (a.double() @ dense(values, metadata).double().t()).float()
    scaled = product * b_scales.reshape(1, -1) * a_scales.reshape(-1, 1)
    out.copy_(scaled if bias is None else scaled + bias.float())
