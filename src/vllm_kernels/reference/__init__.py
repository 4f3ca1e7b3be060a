"""PyTorch reference implementations of the ops, one module a family.

A module's functions are named as the ops and take their arguments; outputs are written in place.
They run on any device and say by example what the kernels compute.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable


def implementations(ops: Iterable[str]) -> dict[str, Callable[..., object]]:
    """The reference of each of ``ops`` that has one."""
    modules = [
        importlib.import_module(f"{__name__}.{module.name}")
        for module in pkgutil.iter_modules(__path__)
    ]
    found: dict[str, Callable[..., object]] = {}
    for op in ops:
        for module in modules:
            if function := getattr(module, op, None):
                found[op] = function
    return found
