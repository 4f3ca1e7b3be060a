"""Weights in FP4 (E2M1): MXFP4 as gpt-oss's checkpoints hold it, NVFP4 as compressed-tensors does.

Runs in the engine's environment. OCP, "Microscaling Formats (MX) Specification", 2023; NVIDIA,
"Pretraining Large Language Models with NVFP4", 2025.
"""

from __future__ import annotations

import torch

MXFP4_GROUP = 32
NVFP4_GROUP = 16
LARGEST = 6.0
# What NVFP4's scales are multiplied by before they are stored, the same for every layer: the engine
# gives layers that it fuses one such number.
NVFP4_DIVISOR = 4096.0
_MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, LARGEST])
_BETWEEN = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / 2


def _codes(values: torch.Tensor) -> torch.Tensor:
    """The nearest FP4 number's four bits, sign first."""
    return torch.bucketize(values.abs().contiguous(), _BETWEEN) + 8 * (values < 0)


def _values(codes: torch.Tensor) -> torch.Tensor:
    return _MAGNITUDES[codes % 8] * (1 - 2 * (codes // 8))


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """Two a byte along the last dimension, the first in the low bits."""
    low, high = codes.reshape(*codes.shape[:-1], -1, 2).unbind(-1)
    return (low | high << 4).to(torch.uint8)


def mxfp4(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Experts' weights [experts, K, N], a power of two for each 32 of K, stored with K last."""
    turned = weight.transpose(1, 2)
    groups = turned.reshape(*turned.shape[:2], -1, MXFP4_GROUP)
    exponents = groups.abs().amax(-1, keepdim=True).log2().floor() - 2  # of 4, FP4's largest power
    codes = _codes(groups / exponents.exp2())
    plain = (_values(codes) * exponents.exp2()).flatten(-2).transpose(1, 2)
    return {
        "_blocks": _packed(codes),
        "_scales": (exponents.squeeze(-1) + 127).to(torch.uint8),
    }, plain


def nvfp4(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A layer's weight [N, K], an E4M3 scale for each 16 of K."""
    groups = weight.reshape(weight.shape[0], -1, NVFP4_GROUP)
    largest = groups.abs().amax(-1, keepdim=True) / LARGEST * NVFP4_DIVISOR
    limit = torch.finfo(torch.float8_e4m3fn).max
    scales = largest.clamp(max=limit).to(torch.float8_e4m3fn)
    factors = scales.float() / NVFP4_DIVISOR
    codes = _codes(groups / factors)
    tensors = {
        "weight_packed": _packed(codes).flatten(-2),
        "weight_scale": scales.squeeze(-1),
        "weight_global_scale": torch.tensor([NVFP4_DIVISOR]),
    }
    return tensors, (_values(codes) * factors).flatten(-2)
