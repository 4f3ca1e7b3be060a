"""The instruction-set tier of the CPU kernels."""

from __future__ import annotations

from vllm_kernels._backends import backends
from vllm_kernels._libraries import cpu_kernels


def cpu_isa() -> str | None:
    """Name of the active tier, such as ``avx512_bf16``; None where no CPU kernels are in use.

    Raises:
        RuntimeError: ``$VLLM_KERNELS_CPU_ISA`` names no tier of this build or one that cannot run.
    """
    kernels = cpu_kernels() if "cpu" in backends() else None
    return kernels.isa() if kernels else None


def set_cpu_isa(name: str | None) -> None:
    """Force a tier for this process, for tests and comparisons; None: the best that can run.

    Raises:
        RuntimeError: The build has no such tier, this CPU or its OS cannot run it, or no CPU
            kernels are in use.
    """
    kernels = cpu_kernels() if "cpu" in backends() else None
    if kernels is None:
        raise RuntimeError(
            "no CPU kernels are in use; install them with `conda install vllm-kernels-cpu`"
        )
    kernels.set_isa(name)
