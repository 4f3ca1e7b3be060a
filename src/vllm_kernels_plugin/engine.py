"""What is checked of the engine before it is served."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from importlib.machinery import PathFinder

from vllm_kernels_plugin.errors import PluginError

KERNELS_DISTRIBUTION = "vllm-kernels"
ENGINE_DISTRIBUTION = "vllm"

# Under these names the engine imports native code: CPU (by instruction set), then CUDA.
CPU_MODULES = ("_C", "_C_AVX512", "_C_AVX2")
CUDA_MODULES = ("_C_stable_libtorch", "_moe_C_stable_libtorch")


def native_modules() -> list[str]:
    """The native modules that the engine's own package holds, without importing any."""
    package = importlib.util.find_spec("vllm")
    folders = package.submodule_search_locations if package else None
    if not folders:
        return []
    names = [f"vllm.{name}" for name in (*CPU_MODULES, *CUDA_MODULES)]
    return [name for name in names if PathFinder.find_spec(name, folders) is not None]


def _minor(version: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def check_version() -> None:
    """PluginError unless the engine's minor version is the one whose ops the kernels implement."""
    from vllm_kernels import __version__ as own

    found = importlib.metadata.version(ENGINE_DISTRIBUTION)
    want = _minor(own)
    if want is None or _minor(found) == want:
        return
    served = f"{want[0]}.{want[1]}"
    raise PluginError(
        f"vLLM {found} is not supported: these kernels ({KERNELS_DISTRIBUTION} {own}) implement "
        f"the ops of vLLM {served}.*; install vllm-engine {served} or the vllm-core of that engine"
    )
