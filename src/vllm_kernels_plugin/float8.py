"""FP8, INT8 and MXFP4 weights on every CPU.

The engine's kernels for them ask for AMX, where upstream's ops need it. Ours run on every tier, so
each of those kernels gets a subclass in its place that leaves the question out, and experts are
told that any x86 CPU will do.
"""

from __future__ import annotations

from typing import Any

LINEAR = ("CPUFp8BlockScaledMMKernel", "CPUFp8PerTensorScaledMMLinearKernel")
EXPERTS = ("CPUExpertsFp8", "CPUExpertsMxfp4", "CPUExpertsInt8")
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
    _serve_experts()


def _serve_experts() -> None:
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe

    for name in EXPERTS:
        if kind := getattr(cpu_moe, name, None):
            kind._supports_current_device = staticmethod(lambda: True)
