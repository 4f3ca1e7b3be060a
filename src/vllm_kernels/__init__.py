"""vLLM's kernels behind ``torch.ops.vllm_kernels``.

Importing loads the native libraries that are installed and registers, for ops that none of them
serves, PyTorch reference implementations. ``python -m vllm_kernels`` says what is in use and why;
``python -m vllm_kernels.selftest`` compares every kernel with its reference.

docs/users/environment.md lists the environment variables.
"""

from __future__ import annotations

from vllm_kernels import _startup
from vllm_kernels._backends import backends
from vllm_kernels._isa import cpu_isa, set_cpu_isa
from vllm_kernels._metadata import version

__all__ = ["__version__", "backends", "cpu_isa", "set_cpu_isa"]

__version__ = version()

_startup.start()
