"""Which scaled matrix products there are. Without kernels: none, and the engine takes others."""

from __future__ import annotations


def cutlass_scaled_mm_supports_fp8(cuda_device_capability: int) -> bool:
    """Whether float8 by float8 with scales per tensor, token or channel is served; capability 90
    is 9.0."""
    return False


def cutlass_scaled_mm_supports_block_fp8(cuda_device_capability: int) -> bool:
    """Whether float8 by float8 with scales per block is served."""
    return False


def cutlass_scaled_mm_supports_fp4(cuda_device_capability: int) -> bool:
    """Whether 4-bit floats with scales per block are served."""
    return False
