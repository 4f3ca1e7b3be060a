"""Which device the engine runs on: a GPU whose kernels are installed and usable, else the CPU."""

from __future__ import annotations

import importlib.util
import logging
import os

import torch

import vllm_kernels
from vllm_kernels import engine_api
from vllm_kernels_plugin import compiler, flashinfer, folders, serve
from vllm_kernels_plugin.engine import CPU_MODULES, CUDA_MODULES
from vllm_kernels_plugin.errors import PluginError

logger = logging.getLogger("vllm.plugins.vllm_kernels")

DEVICE_VARIABLE = "VLLM_KERNELS_DEVICE"
DEVICES = ("auto", "cpu", "cuda")
CPU_PLATFORM = "vllm_kernels_plugin.cpu.KernelsCpuPlatform"
CUDA_PLATFORM = "vllm_kernels_plugin.cuda.KernelsCudaPlatform"


def activate() -> str:
    """Serve the ops of the device; return its platform class.

    Raises:
        PluginError: the device cannot be served, with the reason.
    """
    wanted = os.environ.get(DEVICE_VARIABLE) or "auto"
    if wanted not in DEVICES:
        raise PluginError(f"{DEVICE_VARIABLE}={wanted} is not one of: {', '.join(DEVICES)}")
    if wanted == "cpu":
        return _activate_cpu()
    status = engine_api.cuda_status()
    problem = _no_cuda(status)
    if problem is None:
        return _activate_cuda(status)
    if wanted == "cuda":
        raise PluginError(f"{DEVICE_VARIABLE}=cuda, but {problem}")
    if status.build is not None:
        # A user who installed the CUDA kernels expects a GPU.
        logger.warning("the engine runs on the CPU: %s", problem)
    return _activate_cpu()


def _no_cuda(status: engine_api.CudaStatus) -> str | None:
    """Why the engine cannot run on a GPU here, one clause; None where it can."""
    if status.unusable:
        return status.unusable
    # Families without GPU code serve every GPU, but no model.
    if engine_api.references_only() or any(family.archs for family in status.families):
        return None
    why = next(iter(status.problems.values()), "the package has no GPU code")
    return f"none of the installed CUDA kernels serves a GPU here: {why}"


def _activate_cpu() -> str:
    try:
        tier = vllm_kernels.cpu_isa()
    except RuntimeError as error:
        raise PluginError(str(error)) from None
    _hide_gpus()
    ops = serve.serve("cpu")
    serve.plant(CPU_MODULES)
    # So told, the engine expands the keys and values of models with latent attention and runs them
    # as ordinary attention; latent_cpu says why that is what nobody has to ask for.
    os.environ.setdefault("VLLM_MLA_DISABLE", "1")
    compiler.prepare(logger)
    folders.give(logger)
    logger.info(
        "vllm_kernels %s serves %d ops to the engine on the CPU (%s)",
        vllm_kernels.__version__,
        len(ops),
        f"instruction-set tier {tier}" if tier else "PyTorch reference code, which is slow",
    )
    return CPU_PLATFORM


def _hide_gpus() -> None:
    """Keep the engine from running its Triton code for GPUs, which goes by what it can see."""
    if torch.version.cuda is None or not engine_api.has_cuda_driver():
        return
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    # Not empty: the engine would expect a GPU to appear later.
    if not in_use:
        os.environ[engine_api.CUDA_VISIBLE_DEVICES] = "-1"


def _activate_cuda(status: engine_api.CudaStatus) -> str:
    from vllm_kernels_plugin import choices, cutedsl, deep_gemm, flash_attention, flash_mla

    if importlib.util.find_spec("torchvision") is None:
        # The engine's worker always imports a model that needs it, whichever model it runs.
        raise PluginError(
            "on a GPU the engine needs torchvision, which is not installed: "
            "`conda install torchvision`"
        )
    ops = serve.serve("cuda")
    choices.withhold(logger)
    serve.plant(CUDA_MODULES)
    flash_attention.plant()
    if flash_mla.problem() is None:
        flash_mla.plant()
    if deep_gemm.problem() is None:
        settings = deep_gemm.plant()
        words = ", ".join(f"{name}={value}" for name, value in settings.items())
        logger.info("deep_gemm is vllm_kernels' own module, with %s", words)
    cutedsl.plant()
    compiler.prepare_triton(logger)
    folders.give(logger)
    flashinfer.keep_from_compiling(logger)
    flashinfer.leave_out_sampler(logger)
    families = [family.name for family in status.families]
    logger.info(
        "vllm_kernels %s serves %d ops to the engine on CUDA (%s)",
        vllm_kernels.__version__,
        len(ops),
        ", ".join(families)
        if not engine_api.references_only()
        else "PyTorch reference code, which is slow",
    )
    return CUDA_PLATFORM
