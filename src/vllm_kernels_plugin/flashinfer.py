"""What of FlashInfer works here: the engine goes by the package, not by what is compiled of it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from vllm_kernels_plugin.errors import PluginError

SAMPLER_VARIABLE = "VLLM_USE_FLASHINFER_SAMPLER"
DELTA_NET_KEY = "gdn_prefill_backend"
_MISSING = "FlashInfer is not installed"


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _compiled_folders(flashinfer: Path) -> Iterator[Path]:
    """Where compiled modules are: FOLDER/NAME/NAME.so."""
    yield flashinfer / "data" / "aot"
    if importlib.util.find_spec("flashinfer_jit_cache") is None:
        return
    cache: Any = importlib.import_module("flashinfer_jit_cache")
    if hasattr(cache, "get_jit_cache_dir"):  # FlashInfer 0.6
        yield Path(cache.get_jit_cache_dir())
    if hasattr(cache, "get_jit_cache_providers"):  # 0.7
        for provider in cache.get_jit_cache_providers():
            yield Path(provider.jit_cache_dir)


def _nvcc() -> str | None:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            return shutil.which("nvcc", path=f"{home}/bin")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def module_problem(name: str) -> str | None:
    """Why FlashInfer's module ``name`` cannot be used, one clause; None where it can.

    It can where it is compiled, or where FlashInfer can compile it at the first call.
    """
    flashinfer = _folder("flashinfer")
    if flashinfer is None:
        return _MISSING
    if any((folder / name / f"{name}.so").is_file() for folder in _compiled_folders(flashinfer)):
        return None
    if os.environ.get("FLASHINFER_DISABLE_JIT") == "1":
        return f"FlashInfer's module {name} is not compiled, and FLASHINFER_DISABLE_JIT is 1"
    for tool, found in (("nvcc", _nvcc()), ("ninja", shutil.which("ninja"))):
        if found is None:
            return f"FlashInfer's module {name} is not compiled, and there is no {tool} to do it"
    return None


def delta_net_problem() -> str | None:
    """Why FlashInfer's gated delta nets, which are compiled at their first call, do not work."""
    if _folder("flashinfer") is None:
        return _MISSING
    cutlass = _folder("cutlass")
    if cutlass is None or not (cutlass / "cute").is_dir():
        return "FlashInfer's gated delta nets need nvidia-cutlass-dsl, which is not installed"
    return None


def leave_out_sampler(logger: logging.Logger) -> None:
    """Make the engine use its own sampler where FlashInfer's would fail at the first request."""
    problem = module_problem("sampling")
    if problem is None or SAMPLER_VARIABLE in os.environ:
        return
    os.environ[SAMPLER_VARIABLE] = "0"
    if problem != _MISSING:
        logger.info("the engine samples without FlashInfer: %s", problem)


def leave_out_delta_net(additional_config: object) -> None:
    """Make the engine use Triton's gated delta nets (Qwen3-Next) where FlashInfer's would fail.

    Raises:
        PluginError: FlashInfer's were asked for.
    """
    problem = delta_net_problem()
    if problem is None or not isinstance(additional_config, MutableMapping):
        return
    wanted = str(additional_config.get(DELTA_NET_KEY, "auto")).strip().lower()
    if wanted == "flashinfer":
        raise PluginError(f"{DELTA_NET_KEY} is flashinfer, but {problem}; leave it out, or triton")
    if wanted == "auto":
        additional_config[DELTA_NET_KEY] = "triton"
