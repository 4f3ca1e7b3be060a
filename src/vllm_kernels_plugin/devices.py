"""Which device the engine runs on: the first whose kernels are installed and usable here."""

from __future__ import annotations

import logging
import os

import vllm_kernels
from vllm_kernels_plugin import compiler, serve
from vllm_kernels_plugin.engine import CPU_MODULES
from vllm_kernels_plugin.refusal import PluginError

logger = logging.getLogger("vllm.plugins.vllm_kernels")

CPU_PLATFORM = "vllm_kernels_plugin.cpu.KernelsCpuPlatform"


def activate() -> str:
    """Serve the ops of the device; return its platform class.

    Raises:
        PluginError: no device can be served, with the reason.
    """
    # A CUDA device, once it has kernels, is asked here first.
    return _activate_cpu()


def _activate_cpu() -> str:
    try:
        tier = vllm_kernels.cpu_isa()
    except RuntimeError as error:
        raise PluginError(str(error)) from None
    ops = serve.serve()
    serve.plant(CPU_MODULES)
    # The engine has no latent-attention backend for the CPU; so told, it expands the keys and
    # values of such models and runs them as ordinary attention.
    os.environ.setdefault("VLLM_MLA_DISABLE", "1")
    compiler.prepare(logger)
    logger.info(
        "vllm_kernels %s serves %d ops to the engine on the CPU (%s)",
        vllm_kernels.__version__,
        len(ops),
        f"instruction-set tier {tier}" if tier else "PyTorch reference code, which is slow",
    )
    return CPU_PLATFORM
