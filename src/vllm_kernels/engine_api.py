"""What others ask of the installed kernels: the engine's plugin, tests, benchmarks, emulators.

The whole public surface besides ``torch.ops.vllm_kernels`` and the names of the package itself;
modules that begin with an underscore may change with any version.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vllm_kernels import _arguments, _backends, _cuda, _driver, _fake, _libraries, _ops, _rocm
from vllm_kernels._cuda import Build as CudaBuild
from vllm_kernels._cuda import Family as CudaFamily
from vllm_kernels._libraries import CpuKernels, LoadError
from vllm_kernels._rocm import Build as RocmBuild
from vllm_kernels._rocm import Family as RocmFamily

__all__ = [
    "CORE_LIBRARY",
    "CPU_LIBRARY",
    "CUDA_VISIBLE_DEVICES",
    "NAMESPACE",
    "CpuKernels",
    "CudaBuild",
    "CudaFamily",
    "CudaStatus",
    "LoadError",
    "RocmBuild",
    "RocmFamily",
    "RocmStatus",
    "abi_version",
    "bindings",
    "cpu_kernels",
    "cuda_library",
    "cuda_problem",
    "cuda_status",
    "define",
    "devices_of",
    "dispatch_keys",
    "emulate_cpu",
    "fakes",
    "family_of",
    "find_library",
    "has_cuda_driver",
    "implement",
    "namespace_of",
    "ops",
    "reference_ops",
    "references_only",
    "rocm_library",
    "rocm_status",
    "schema",
]

NAMESPACE = _ops.NAMESPACE
CORE_LIBRARY = _libraries.CORE
CPU_LIBRARY = _libraries.CPU
CUDA_VISIBLE_DEVICES = _driver.VISIBLE_VARIABLE


# Ops


def ops() -> list[str]:
    """Every op of :data:`NAMESPACE` by its bare name, sorted."""
    return _ops.names()


def family_of(op: str) -> str:
    """The kernel family that ``op`` belongs to."""
    return _libraries.family_of(op)


def devices_of(op: str) -> tuple[str, ...]:
    """The devices, ``cpu`` and ``cuda``, on which the engine has ``op``; served here or not."""
    return _libraries.devices_of(op)


def namespace_of(op: str) -> str:
    """The namespace in which the engine calls ``op``.

    :data:`NAMESPACE` where it does not call the op by itself, empty for an op that we do not have.
    """
    return _libraries.namespace_of(op)


def schema(op: str) -> torch.FunctionSchema:
    """The schema of ``op`` in :data:`NAMESPACE`."""
    return _ops.schema(op)


def dispatch_keys(op: str) -> list[str]:
    """PyTorch's dispatch keys under which ``op`` has an implementation, the references' too."""
    return [key for key in _ops.kernel_keys(op) if not _arguments.only_refuses(op, key)]


def reference_ops() -> tuple[str, ...]:
    """The ops that PyTorch reference code serves, for lack of a kernel."""
    return _backends.reference_ops()


def references_only() -> bool:
    """Whether the user wants installed kernels left unused (``VLLM_KERNELS_BACKEND``)."""
    return _backends.requested() == "reference"


def fakes() -> Mapping[str, Callable[..., object]]:
    """By op: the function that tells shapes and types of its results without computing them."""
    found = {op: _fake.fake_of(op) for op in ops()}
    return {op: fake for op, fake in found.items() if fake is not None}


# Registering the ops a second time, in a namespace of the engine


def bindings() -> tuple[str, ...]:
    """Names of the loaded libraries that implement ops, without ``lib`` and ``.so``."""
    return _backends.bindings()


def define(namespace: str, op: str) -> None:
    """Define ``op`` in ``namespace``, with the schema that it has in ours.

    Raises:
        LoadError: The library of the schemas is absent or cannot define it.
    """
    _call(_libraries.OPS, "vk_torch_define", namespace, op)


def implement(namespace: str, ops: Iterable[str]) -> None:
    """Let the loaded libraries register their kernels of ``ops`` in ``namespace`` as well.

    They register the kernels themselves, so a call costs nothing more. An op that no library
    implements is passed over.

    Raises:
        LoadError: A library refuses.
    """
    # The library wants each name followed by a space.
    words = "".join(f"{op} " for op in ops)
    for binding in bindings() if words else ():
        _call(binding, "vk_torch_implement", namespace, words)


def _call(library: str, function: str, *arguments: str) -> None:
    path = find_library(library)
    if path is None:
        raise LoadError(f"lib{library}.so is missing: reinstall the package that holds it")
    symbol = getattr(ctypes.CDLL(str(path)), function)
    symbol.restype = ctypes.c_char_p
    message = symbol(*(argument.encode() for argument in arguments))
    if message is not None:
        raise LoadError(f"{path} cannot register its ops: {message.decode()}")


# Libraries


def find_library(name: str) -> Path | None:
    """Path of ``lib<name>.so``, or None where no package provides it."""
    return _libraries.find_library(name)


def abi_version() -> int:
    """Version of the kernels' C ABI that vllm-core speaks. LoadError where it is absent."""
    return _libraries.core().abi_version()


def cpu_kernels() -> CpuKernels | None:
    """The CPU kernels with their instruction-set tiers, or None where they are not installed.

    Raises:
        LoadError: They are there but were built for another vllm-core.
    """
    return _libraries.cpu_kernels()


def emulate_cpu(kernels: CpuKernels, register: Callable[[], object]) -> None:
    """Let ``kernels`` serve the CPU in place of the installed library.

    For emulators of other platforms. It counts at the package's start, so the caller imports this
    module beneath a bare package and executes the package's own module afterwards.

    Args:
        register: Registers implementations in :data:`NAMESPACE`; called at the start.
    """
    _libraries.emulate_cpu(kernels, register)


# CUDA


@dataclass(frozen=True)
class CudaStatus:
    """What vllm-kernels-cuda can do in this process.

    Attributes:
        build: The installed package; None where there is none.
        unusable: Why no CUDA kernel can be used, one clause; None where they can.
        families: The installed families that serve a GPU of this machine.
        problems: Why the others serve none, by family.
    """

    build: CudaBuild | None
    unusable: str | None
    families: tuple[CudaFamily, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


def cuda_status() -> CudaStatus:
    """Look at the installed vllm-kernels-cuda, PyTorch, driver and GPUs; initialises no CUDA.

    Raises:
        LoadError: The package's summary cannot be read.
    """
    build, unusable = _cuda.build(), _cuda.unusable()
    if build is None or unusable:
        return CudaStatus(build, unusable)
    found = {one.name: _cuda.family_problem(one) for one in build.families.values()}
    return CudaStatus(
        build,
        None,
        tuple(build.families[name] for name, problem in found.items() if problem is None),
        {name: problem for name, problem in found.items() if problem is not None},
    )


def cuda_problem(op: str) -> str | None:
    """Why ``op`` has no CUDA kernel in use, one clause; None where it has one."""
    if "CUDA" in dispatch_keys(op):
        return None
    return _cuda.reason(_libraries.family_of(op))


def cuda_library(family: str) -> str:
    """Name of a CUDA family's library, for :func:`find_library`."""
    return _cuda.PREFIX + family


def has_cuda_driver() -> bool:
    """Whether NVIDIA's CUDA driver library is on this machine."""
    return _driver.has_cuda()


# ROCm


@dataclass(frozen=True)
class RocmStatus:
    """What vllm-kernels-rocm can do in this process.

    Attributes:
        build: The installed package; None where there is none.
        unusable: Why none of its kernels can be used, one clause; None where they can.
    """

    build: RocmBuild | None
    unusable: str | None


def rocm_status() -> RocmStatus:
    """Look at the installed vllm-kernels-rocm, PyTorch and GPUs; initialises no HIP.

    Raises:
        LoadError: The package's summary cannot be read.
    """
    return RocmStatus(_rocm.build(), _rocm.unusable())


def rocm_library(family: str) -> str:
    """Name of the library of a family for AMD GPUs, for :func:`find_library`."""
    return _rocm.PREFIX + family
