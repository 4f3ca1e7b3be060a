"""Which implementations serve the ops: installed device libraries, otherwise the references."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable

import torch

from vllm_kernels import _arguments, _cuda, _libraries, _ops, _rocm, reference

BACKEND_VARIABLE = "VLLM_KERNELS_BACKEND"
CHOICES = ("auto", "reference")

_logger = logging.getLogger("vllm_kernels")
_loaded: list[str] = []
_bindings: list[str] = []
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


def bindings() -> tuple[str, ...]:
    """Names of the loaded libraries that implement ops, without ``lib`` and ``.so``."""
    return tuple(_bindings)


def reference_ops() -> tuple[str, ...]:
    """The ops that the reference implementations serve."""
    return tuple(_reference_ops)


def load() -> None:
    """Load the device libraries that are installed and wanted.

    LoadError where one is installed but cannot be loaded: running on at a fraction of the speed is
    the user's decision, made by VLLM_KERNELS_BACKEND=reference.
    """
    if requested() == "reference" or _loaded:
        return
    kernels = _libraries.cpu_kernels()
    if kernels is not None:
        _libraries.check_cpu(kernels)
    if kernels is not None and _libraries.load_cpu_ops():
        _loaded.append("cpu")
        _bindings.append(_libraries.CPU_BINDING)
    for family in _cuda.wanted():
        if not _libraries.load_ops(family.library):
            raise _libraries.LoadError(
                f"lib{family.library}.so is missing, which {_summary_path()} lists: reinstall "
                f"{family.package}"
            )
        _bindings.append(family.library)
        if "cuda" not in _loaded:
            _loaded.append("cuda")
    _load_rocm()


def _load_rocm() -> None:
    installed, wanted = _rocm.build(), _rocm.wanted()
    for family in wanted:
        if not _libraries.load_ops(family.library):
            raise _libraries.LoadError(
                f"lib{family.library}.so is missing: reinstall {_rocm.PACKAGE}"
            )
        _bindings.append(family.library)
    if installed and wanted:
        _loaded.append("rocm")
        _logger.warning(
            "%s serves the GPU, and its kernels were %s: check results, and %s",
            _rocm.PACKAGE,
            installed.state,
            installed.request,
        )


def _summary_path() -> str:
    installed = _cuda.build()
    return str(installed.path) if installed else _cuda.SUMMARIES


def _without_kernel(name: str) -> bool:
    """Whether tensors of some device would find no kernel of the op."""
    keys = _ops.kernel_keys(name)
    if "CompositeExplicitAutograd" in keys:
        return False
    # ROCm's builds of PyTorch call their GPUs CUDA.
    gpu = torch.version.cuda is not None or torch.version.hip is not None
    devices = ["CPU", "CUDA"] if gpu else ["CPU"]
    return not all(device in keys for device in devices)


def register_references(library: torch.library.Library) -> None:
    """Let the references serve every op and device that no device library implements."""
    bare = [name for name in _ops.names() if _without_kernel(name)]
    for name, function in reference.implementations(bare).items():
        alone = not _ops.kernel_keys(name)
        library.impl(  # type: ignore[no-untyped-call]
            name, _announced(name, function), "CompositeExplicitAutograd"
        )
        if alone:
            _reference_ops.append(name)


def _announced(name: str, function: Callable[..., object]) -> Callable[..., object]:
    if not any("Tensor" in str(argument.type) for argument in _ops.schema(name).arguments):
        return function  # it only asks what is installed, which is not slow

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        _arguments.check(name, args, kwargs)
        _announce(name, _device(args, kwargs))
        return function(*args, **kwargs)

    return call


def _device(args: tuple[object, ...], kwargs: dict[str, object]) -> str:
    """Device type of the first tensor."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.device.type
    return "cpu"


@functools.cache
def _announce(name: str, device: str) -> None:
    """At an op's first call on a device, say that the slow path is taken, and why."""
    if requested() == "reference":
        _logger.info("%s=reference: %s runs as PyTorch reference code", BACKEND_VARIABLE, name)
    elif device == "cuda":
        backend = _rocm if torch.version.hip is not None else _cuda
        why = backend.reason(_libraries.family_of(name))
        _logger.warning("%s runs as PyTorch reference code on the GPU: %s", name, why)
    elif "cpu" in _loaded:
        _logger.warning(
            "the installed CPU kernels have none for %s: PyTorch reference code runs instead", name
        )
    else:
        _logger.warning(
            "no CPU kernels are installed, so %s runs as PyTorch reference code, which is slow; "
            "install them with `conda install vllm-kernels-cpu`",
            name,
        )
