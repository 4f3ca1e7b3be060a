"""FP8 weights on every CPU.

The engine's kernels for them ask for AMX, where upstream's ops need it. Ours run on every tier, so
each of those kernels gets a subclass in its place that leaves the question out.
"""

from __future__ import annotations

from typing import Any

LINEAR = ("CPUFp8BlockScaledMMKernel", "CPUFp8PerTensorScaledMMLinearKernel")
TABLES = ("_POSSIBLE_FP8_BLOCK_KERNELS", "_POSSIBLE_FP8_KERNELS")


def _is_supported(cls: type, compute_capability: int | None = None) -> tuple[bool, str | None]:
    return True, None


def _of_every_tier(base: type) -> type:
    return type(f"Kernels{base.__name__}", (base,), {"is_supported": classmethod(_is_supported)})


def serve() -> None:
    """Have the engine take its FP8 kernels for linear layers whatever the CPU's tier is."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    for name in TABLES:
        table: dict[Any, list[type]] = getattr(linear, name, {})
        kernels = table.get(PlatformEnum.CPU, [])
        kernels[:] = [_of_every_tier(one) if one.__name__ in LINEAR else one for one in kernels]
