"""A module of the engine that needs nvidia-cutlass-dsl to say that it serves no GPU at hand.

From 0.28 on, DeepSeek-V3.2 on any GPU asks `fused_q_cutedsl` whether it serves a layer. It does on
capability 10.0 alone, and elsewhere the engine's Triton kernel runs; but the module imports
nvidia-cutlass-dsl, which then fails where that is not installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from vllm_kernels_plugin import modules

NAME = "vllm.models.deepseek_v32.nvidia.ops.fused_q_cutedsl"


def is_installed() -> bool:
    """Whether nvidia-cutlass-dsl is: other packages have a `cutlass` without its `cute`."""
    spec = importlib.util.find_spec("cutlass")
    folders = (spec and spec.submodule_search_locations) or ()
    return any((Path(folder) / "cute").is_dir() for folder in folders)


def is_fused_q_cutedsl_supported(*_: object, **__: object) -> bool:
    """No: nothing of it is installed."""
    return False


def fused_q_cutedsl(*_: object, **__: object) -> None:
    """Imported together with the question, never called after its answer."""
    raise NotImplementedError("fused_q_cutedsl needs nvidia-cutlass-dsl")


def plant() -> None:
    """Put the answer in the module's place where it could not be imported."""
    if not is_installed():
        modules.plant(NAME, __doc__ or "", __file__, is_fused_q_cutedsl_supported, fused_q_cutedsl)
