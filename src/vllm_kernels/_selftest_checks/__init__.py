"""Small calls of every op, for comparing an implementation with the reference: a module a family.

A check calls ops of the given provider (``torch.ops.vllm_kernels`` or the references) and returns
what they computed. Provider-owned state, such as the layout of a KV cache or a packed weight,
stays inside a check: only results are compared.
"""

from __future__ import annotations

import importlib
import pkgutil

from vllm_kernels._selftest_checks.registry import CHECKS, Check

__all__ = ["CHECKS", "Check"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
