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

import torch

from vllm_kernels_plugin import cutedsl
from vllm_kernels_plugin.errors import PluginError

SAMPLER_VARIABLE = "VLLM_USE_FLASHINFER_SAMPLER"
NO_JIT_VARIABLE = "FLASHINFER_DISABLE_JIT"
CUBINS_VARIABLE = "FLASHINFER_CUBINS_REPOSITORY"
DELTA_NET_KEY = "gdn_prefill_backend"
_MISSING = "FlashInfer is not installed"
# Beside the modules of vllm-flashinfer; others' packages have none.
_SUMMARY = "modules.json"
# FlashInfer's words in modules' names.
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "f16"}
_FP8 = {"fp8": "e4m3", "fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2"}


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


def _ours(flashinfer: Path) -> Path | None:
    """The modules of vllm-flashinfer, where that is installed."""
    return next((one for one in _compiled_folders(flashinfer) if (one / _SUMMARY).is_file()), None)


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
    if value := os.environ.get(NO_JIT_VARIABLE):  # any value, 0 too
        where = "in vllm-flashinfer" if _ours(flashinfer) else "compiled"
        return f"FlashInfer's module {name} is not {where}, and {NO_JIT_VARIABLE} is {value}"
    for tool, found in (("nvcc", _nvcc()), ("ninja", shutil.which("ninja"))):
        if found is None:
            return f"FlashInfer's module {name} is not compiled, and there is no {tool} to do it"
    return None


def delta_net_problem() -> str | None:
    """Why FlashInfer's gated delta nets, which are compiled at their first call, do not work."""
    if _folder("flashinfer") is None:
        return _MISSING
    if value := os.environ.get(NO_JIT_VARIABLE):
        return (
            "FlashInfer's gated delta nets are compiled at their first call, and "
            f"{NO_JIT_VARIABLE} is {value}"
        )
    if not cutedsl.is_installed():
        return "FlashInfer's gated delta nets need nvidia-cutlass-dsl, which is not installed"
    return None


def attention_problem(
    head_size: int, dtype: torch.dtype, kv_cache_dtype: str | None, hopper: bool
) -> str | None:
    """Why the backend FLASHINFER cannot serve a layer: the first module that cannot be used.

    Layers with a window or capped logits call modules of other names; the engine does not say here
    whether a layer has them.
    """
    modules = attention_modules(head_size, dtype, kv_cache_dtype, hopper)
    return next(filter(None, map(module_problem, modules)), None)


def attention_modules(
    head_size: int, dtype: torch.dtype, kv_cache_dtype: str | None, hopper: bool
) -> list[str]:
    """Names of the modules that the engine calls: on Hopper its own for prompts, and decoding's."""
    out = _DTYPES.get(dtype, str(dtype))
    cache = _FP8.get(kv_cache_dtype or "auto", out)
    queries = out if cache == out else "e4m3"
    name = (
        f"batch_prefill_with_kv_cache_dtype_q_{queries}_dtype_kv_{cache}_dtype_o_{out}_dtype_idx_i32_"
        f"head_dim_qk_{head_size}_head_dim_vo_{head_size}_posenc_0_use_swa_False_"
        "use_logits_cap_False_f16qk_False"
    )
    if not hopper:
        return [name]
    return [f"{name}_sm90", name] if cache == out else [f"{name}_sm90"]


def keep_from_compiling(logger: logging.Logger) -> None:
    """Where vllm-flashinfer is installed, let nothing be compiled or downloaded beside it.

    What the user has set stays.
    """
    flashinfer = _folder("flashinfer")
    if flashinfer is None:
        return
    if folder := _ours(flashinfer):
        wanted = {
            NO_JIT_VARIABLE: "1",
            # A folder without any: what would be downloaded is missing at once.
            CUBINS_VARIABLE: str(folder),
            # Otherwise block-scaled products are compiled by NVRTC, inside of their module.
            "TRTLLM_DG_ENABLED": "0",
        }
        if missing := {name: value for name, value in wanted.items() if name not in os.environ}:
            os.environ.update(missing)
            words = ", ".join(f"{name}={value}" for name, value in missing.items())
            logger.info("FlashInfer is kept from compiling and downloading, with %s", words)


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
