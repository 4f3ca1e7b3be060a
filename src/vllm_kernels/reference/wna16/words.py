"""Words of 4- and 8-bit weights: GPTQ's and AWQ's streams, and repacked tiles.

Repacked weights lie as csrc/cuda/wna16/layout.h says: packed tiles of 64 columns x 16 rows of K,
each the operands of four tensor-core instructions.
"""

from __future__ import annotations

import math

import torch

# Columns of a word of AWQ weights, from the low bits up; the engine's zero points use it too.
_AWQ_COLUMNS = {4: [0, 2, 4, 6, 1, 3, 5, 7], 8: [0, 2, 1, 3]}


def split(tensor: torch.Tensor, dim: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """``tensor.unflatten``, which PyTorch leaves untyped."""
    dim %= tensor.dim()
    # What -1 stands for, which PyTorch does not know of a tensor without elements.
    rest = tensor.shape[dim] // abs(math.prod(sizes))
    sizes = tuple(rest if size == -1 else size for size in sizes)
    return tensor.reshape(*tensor.shape[:dim], *sizes, *tensor.shape[dim + 1 :])


def unpack(words: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Elements of ``bits`` each, low bits first, that a stream of int32 along ``dim`` holds."""
    words = words.movedim(dim, -1).long() & 0xFFFFFFFF
    count = words.shape[-1] * 32 // bits
    start = torch.arange(count, device=words.device) * bits
    low = words[..., start // 32] >> start % 32
    following = words[..., (start // 32 + 1).clamp(max=words.shape[-1] - 1)]
    values = (low | following << (32 - start % 32)) & ((1 << bits) - 1)
    return values.movedim(-1, dim)


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 words of the elements along the last dimension, low bits first; bits divides 32."""
    per_word = 32 // bits
    shifts = torch.arange(per_word, device=values.device) * bits
    words = (split(values.long(), -1, (-1, per_word)) << shifts).sum(-1)
    return (words - ((words >> 31) << 32)).to(torch.int32)


def _tile_places(bits: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """K and N inside its packed tile of each element of each word: two [words, 32 / bits]."""
    word = torch.arange(32 * bits, device=device)[:, None]
    element = torch.arange(32 // bits, device=device)[None]
    if bits == 4:
        lane, tile, pair, second = word // 4, word % 4, element % 4, element // 4
    else:
        lane, tile = word % 128 // 4, 2 * (word // 128) + word % 4 // 2
        pair, second = 2 * (word % 2) + element % 2, element // 2
    k = 2 * (lane % 4) + second + 8 * (pair // 2)
    return k, 16 * tile + lane // 4 + 8 * (pair % 2)


def repack(q: torch.Tensor, bits: int) -> torch.Tensor:
    """[K / 16, N * bits / 2] int32 in packed tiles, of the elements [K, N]."""
    size_k, size_n = q.shape
    k, n = _tile_places(bits, q.device)
    tiles = split(split(q, 0, (-1, 16)), 2, (-1, 64)).permute(2, 0, 1, 3)
    return pack(tiles[:, :, k, n], bits).reshape(size_k // 16, size_n * bits // 2)


def unrepack(packed: torch.Tensor, bits: int, size_k: int, size_n: int) -> torch.Tensor:
    """The elements [K, N] of repacked weights."""
    k, n = _tile_places(bits, packed.device)
    words = packed.reshape(size_n // 64, size_k // 16, 32 * bits)
    values = split(unpack(words, bits, -1), -1, k.shape)
    tiles = torch.empty(
        (size_n // 64, size_k // 16, 16, 64), dtype=torch.int64, device=packed.device
    )
    tiles[:, :, k, n] = values
    return tiles.permute(1, 2, 0, 3).reshape(size_k, size_n)


def awq_columns(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The columns in order of AWQ weights [K, N * bits / 32], or of their zero points."""
    values = split(unpack(words, bits, -1), -1, (-1, 32 // bits))
    columns = torch.empty_like(values)
    columns[..., _AWQ_COLUMNS[bits]] = values
    return columns.flatten(-2)
