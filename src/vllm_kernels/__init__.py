"""vLLM's kernels behind ``torch.ops.vllm_kernels``.

Importing loads the native libraries that are installed and registers, for ops that none of them
serves, PyTorch reference implementations. ``python -m vllm_kernels`` says what is in use and why;
``python -m vllm_kernels.selftest`` compares every kernel with its reference.

Environment variables:
    VLLM_KERNELS_BACKEND: ``auto``, or ``reference`` to leave installed kernels unused.
    VLLM_KERNELS_CPU_ISA: instruction-set tier that the CPU kernels are forced to.
    VLLM_KERNELS_CPU_COMPACT: ``0`` keeps bfloat16 weights of dense products in 16 bits; by default
        they lie in 12, without loss, where that is faster (AMX). ``1``: wherever possible.
    VLLM_KERNELS_LIBRARY_DIR: folder searched first for the native libraries (a build tree).
"""

from __future__ import annotations

from vllm_kernels import _startup
from vllm_kernels._backends import backends
from vllm_kernels._isa import cpu_isa, set_cpu_isa
from vllm_kernels._metadata import version

__all__ = ["__version__", "backends", "cpu_isa", "set_cpu_isa"]

__version__ = version()

_startup.start()
