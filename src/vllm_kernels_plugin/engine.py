"""What is checked of the engine before it is served."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from importlib.machinery import PathFinder

from vllm_kernels_plugin import engines
from vllm_kernels_plugin.errors import PluginError

KERNELS_DISTRIBUTION = "vllm-kernels"
ENGINE_DISTRIBUTION = "vllm"
ENGINE_VARIABLE = "VLLM_KERNELS_ENGINE"
ENGINES = ("known", "any")

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


def version() -> str:
    """Version of the installed engine."""
    return importlib.metadata.version(ENGINE_DISTRIBUTION)


def check_version(logger: logging.Logger) -> None:
    """PluginError unless the engine is one of those whose ops the kernels implement."""
    choice = os.environ.get(ENGINE_VARIABLE) or "known"
    if choice not in ENGINES:
        raise PluginError(f"{ENGINE_VARIABLE}={choice} is not one of: {', '.join(ENGINES)}")
    found = version()
    if engines.is_served(found):
        return
    served = f"{engines.oldest()} to {engines.newest()}"
    if choice == "any":
        logger.warning(
            "vLLM %s is served as the nearest of %s, because %s=any: what differs may fail",
            found,
            served,
            ENGINE_VARIABLE,
        )
        return
    # Only here: for an engine that is served, what keeps the libraries from loading is to be said.
    from vllm_kernels import __version__ as own

    newer = engines.parse(found) > engines.releases()[-1]
    raise PluginError(
        f"vLLM {found} is not supported: these kernels ({KERNELS_DISTRIBUTION} {own}) implement "
        f"the ops of vLLM {served}; "
        + (
            f"install a newer vllm-core or an older engine, or set {ENGINE_VARIABLE}=any to try"
            if newer
            else "install a newer engine"
        )
    )
