"""PyTorch reference implementations of the ops, one module or package a family.

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
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(__path__, f"{__name__}.")
    ]
    found: dict[str, Callable[..., object]] = {}
    for op in ops:
        for module in modules:
            if function := getattr(module, op, None):
                found[op] = function
    return found
