"""FP8 weights on every CPU, and experts with FP8, INT8, INT4 and MXFP4 weights on x86.

The engine's kernels for linear layers ask for AMX, which upstream's ops need. Ours run on every
tier, so each of those kernels gets a subclass in its place that leaves the question out. Experts
are told that any x86 CPU will do. On other CPUs the engine's own answer stands: it has experts of
their own for some formats, and no engine has run ours there.
"""

from __future__ import annotations

from typing import Any

LINEAR = ("CPUFp8BlockScaledMMKernel", "CPUFp8PerTensorScaledMMLinearKernel")
EXPERTS = ("CPUExpertsFp8", "CPUExpertsMxfp4", "CPUExpertsInt8", "CPUExpertsInt4")
TABLES = ("_POSSIBLE_FP8_BLOCK_KERNELS", "_POSSIBLE_FP8_KERNELS")


def _is_supported(cls: type, compute_capability: int | None = None) -> tuple[bool, str | None]:
    return True, None


def _of_every_tier(base: type) -> type:
    return type(f"Kernels{base.__name__}", (base,), {"is_supported": classmethod(_is_supported)})


def serve() -> None:
    """Have the engine take its kernels for linear layers on every CPU, its experts on x86."""
    from vllm.model_executor.kernels import linear
    from vllm.platforms import PlatformEnum

    for name in TABLES:
        table: dict[Any, list[type]] = getattr(linear, name, {})
        kernels = table.get(PlatformEnum.CPU, [])
        kernels[:] = [_of_every_tier(one) if one.__name__ in LINEAR else one for one in kernels]
    _serve_experts()


def _serve_experts() -> None:
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe
    from vllm.platforms import CpuArchEnum, current_platform

    if current_platform.get_cpu_architecture() != CpuArchEnum.X86:
        return
    for name in EXPERTS:
        if kind := getattr(cpu_moe, name, None):
            kind._supports_current_device = staticmethod(lambda: True)
