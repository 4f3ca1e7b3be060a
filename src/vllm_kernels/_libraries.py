"""Where the native libraries lie, and loading them into the process."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from vllm_kernels._metadata import torch_minimum

LIBRARY_DIR_VARIABLE = "VLLM_KERNELS_LIBRARY_DIR"

# By package. A binding needs the library before it.
CORE = "vllm_kernels_core"
OPS = "vllm_kernels_ops"
CPU = "vllm_kernels_cpu"
CPU_BINDING = "vllm_kernels_cpu_torch"
ALL = (CORE, OPS, CPU, CPU_BINDING)


class LoadError(ImportError):
    """A library is installed but cannot serve; one sentence, with the remedy where there is one."""


def library_dirs() -> list[Path]:
    """Folders searched for the native libraries, first match wins.

    ``$VLLM_KERNELS_LIBRARY_DIR`` (a build tree), ``vllm_kernels/lib`` (wheels; of an editable
    installation in site-packages, without the sources), then ``<prefix>/lib/vllm_kernels`` (conda),
    found relative to this file so that it also holds in a prefix whose interpreter was started from
    elsewhere.
    """
    package = Path(__file__).resolve().parent
    override = os.environ.get(LIBRARY_DIR_VARIABLE)
    found = [Path(override)] if override else []
    found.append(package / "lib")
    found += [
        folder / "lib"
        for folder in _others(package)
        if (folder / "lib").is_dir() and not (folder / "__init__.py").is_file()
    ]
    # Of a checkout, that would be a folder above it.
    if package.parent.name == "site-packages":
        found.append(package.parents[2] / "vllm_kernels")
    return found


def _others(package: Path) -> Iterator[Path]:
    """Other folders of this name on the import path."""
    for entry in sys.path:
        folder = Path(entry or ".").resolve() / package.name
        if folder != package and folder.is_dir():
            yield folder


def _hidden() -> str:
    """What this package hides, where PYTHONPATH puts it before an installed one."""
    package = Path(__file__).resolve().parent
    for folder in _others(package):
        if (folder / "__init__.py").is_file():
            return f" ({package} is imported and hides {folder}: see PYTHONPATH)"
    return ""


def find_library(name: str) -> Path | None:
    """Path of ``lib<name>.so``, or None where no package provides it."""
    for folder in library_dirs():
        path = folder / f"lib{name}.so"
        if path.is_file():
            return path
    return None


_Summary = TypeVar("_Summary")


def read_summary(
    path: Path, schema: int, package: str, parse: Callable[[Path, dict[str, Any]], _Summary]
) -> _Summary:
    """What ``parse`` makes of a package's summary of its kernels, which lies beside the libraries.

    Args:
        path: The file.
        schema: The form of it that ``parse`` knows.
        package: Whose it is, unless it says so itself.
        parse: Gets the path and the content.

    Raises:
        LoadError: It is damaged, or has another schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        package = data.get("package", package)
        if data["schema"] != schema:
            raise LoadError(
                f"{path} has schema {data['schema']}, this vllm_kernels reads {schema}: install "
                f"vllm-core and {package} of one version"
            )
        return parse(path, data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{path} is damaged ({error!r}): reinstall {package}") from None


def load_error(path: Path, cause: OSError) -> LoadError:
    """What the dynamic linker's message means for the user, in one sentence."""
    # torch.ops.load_library hides the linker's message behind one of its own.
    text = str(cause.__cause__ or cause).removeprefix(f"{path}: ")
    if re.search(r"undefined symbol: (aoti_torch|torch_)|libtorch", text):
        return LoadError(
            f"{path} needs torch >= {torch_minimum()}, found {torch.__version__} ({text})"
        )
    if missing := re.search(r"(\S+\.so[.\d]*): cannot open shared object file", text):
        return LoadError(
            f"{path} needs {missing[1]}, which is not in this environment: reinstall the package "
            "that holds it"
        )
    if glibc := re.search(r"version `((?:GLIBC|GLIBCXX)_[\d.]+)' not found", text):
        return LoadError(
            f"{path} needs {glibc[1]}, which this system's C or C++ library is too old for"
        )
    return LoadError(f"{path} cannot be loaded: {text}")


class Library(ctypes.CDLL):
    """A library that speaks the C ABI of csrc/core/abi.h."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(str(path))
            self.vk_abi_version.restype = ctypes.c_int32
            self.vk_last_error.restype = ctypes.c_char_p
        except OSError as error:
            raise load_error(path, error) from None
        except AttributeError:
            raise LoadError(f"{path} is not a library of vllm_kernels") from None
        self.path = path

    def abi_version(self) -> int:
        """VK_ABI_VERSION that the library was compiled with."""
        return int(self.vk_abi_version())

    def last_error(self) -> str:
        """What the last failing call of this thread said."""
        return str(self.vk_last_error().decode())


class CpuKernels(Protocol):
    """CPU kernels and their instruction-set tiers: the installed library, or an emulator's."""

    def isa(self) -> str:
        """Name of the active tier; RuntimeError where none can run."""
        raise NotImplementedError

    def set_isa(self, name: str | None) -> None:
        """Force a tier for this process (None: the best). RuntimeError where it cannot run."""
        raise NotImplementedError

    def tiers(self) -> dict[str, bool]:
        """Every tier of this build, lowest first, and whether this CPU and OS can run it."""
        raise NotImplementedError

    def abi_version(self) -> int:
        """VK_ABI_VERSION that the kernels were compiled with."""
        raise NotImplementedError


class Core(Library):
    """What vllm-core itself brings: feature detection (csrc/core/cpu_features.h)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.vk_cpu_features.restype = ctypes.c_uint64
        self.vk_cpu_feature_name.restype = ctypes.c_char_p
        self.vk_cpu_feature_name.argtypes = [ctypes.c_int32]

    def features(self) -> dict[str, bool]:
        """Every feature that tiers ask for, and whether this CPU and its OS offer it."""
        bits = self.vk_cpu_features()
        found: dict[str, bool] = {}
        while (name := self.vk_cpu_feature_name(len(found))) is not None:
            found[name.decode()] = bool(bits >> len(found) & 1)
        return found


class Kernels(Library):
    """The C ABI of the CPU kernels (csrc/cpu/dispatch.h), for tier control and diagnosis."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.vk_cpu_isa.restype = ctypes.c_char_p
        self.vk_cpu_tier.restype = ctypes.c_char_p
        self.vk_cpu_tier.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_int32)]
        self.vk_cpu_set_isa.argtypes = [ctypes.c_char_p]

    def isa(self) -> str:
        """Name of the active tier; RuntimeError where none can run."""
        name = self.vk_cpu_isa()
        if name is None:
            raise RuntimeError(self.last_error())
        return str(name.decode())

    def set_isa(self, name: str | None) -> None:
        """Force a tier for this process (None: the best). RuntimeError where it cannot run."""
        if self.vk_cpu_set_isa(name.encode() if name else None) != 0:
            raise RuntimeError(self.last_error())

    def tiers(self) -> dict[str, bool]:
        """Every tier of this build, lowest first, and whether this CPU and OS can run it."""
        found: dict[str, bool] = {}
        runnable = ctypes.c_int32()
        while (name := self.vk_cpu_tier(len(found), ctypes.byref(runnable))) is not None:
            found[name.decode()] = bool(runnable.value)
        return found


@lru_cache(maxsize=1)
def core() -> Core:
    """The library of vllm-core. LoadError where it is absent: nothing works without it."""
    path = find_library(CORE)
    if path is None:
        folders = ", ".join(str(folder) for folder in library_dirs())
        raise LoadError(
            f"lib{CORE}.so is in none of {folders}: install vllm-core, or build the checkout and "
            f"set {LIBRARY_DIR_VARIABLE} to the build tree's lib folder{_hidden()}"
        )
    return Core(path)


_emulated: list[tuple[CpuKernels, Callable[[], object]]] = []


def emulate_cpu(kernels: CpuKernels, register: Callable[[], object]) -> None:
    """Let ``kernels`` stand for vllm-kernels-cpu, and ``register`` for loading its binding."""
    _emulated[:] = [(kernels, register)]


@lru_cache(maxsize=1)
def cpu_kernels() -> CpuKernels | None:
    """The CPU kernel library, or None where vllm-kernels-cpu is not installed.

    LoadError where it is there but was built for another vllm-core.
    """
    if _emulated:
        return _emulated[0][0]
    path = find_library(CPU)
    if path is None:
        return None
    kernels = Kernels(path)
    want, got = core().abi_version(), kernels.abi_version()
    if want != got:
        raise LoadError(
            f"{path} speaks version {got} of the kernels' C ABI, {core().path} wants {want}: "
            "install vllm-core and vllm-kernels-cpu of one version"
        )
    return kernels


def check_cpu(kernels: CpuKernels) -> None:
    """Refuse kernels of which no tier runs here: their first call would be an illegal instruction.

    The solver never chooses them; a lock file, a copied prefix or a stated `__archspec` does.

    Raises:
        LoadError: Names the feature that this CPU lacks.
    """
    tiers = kernels.tiers()
    if not tiers or any(tiers.values()):
        return
    try:
        kernels.set_isa(next(iter(tiers)))
    except RuntimeError as error:
        raise LoadError(
            f"the installed vllm-kernels-cpu cannot run on this CPU: {error}; install the one "
            "of a lower level, which `conda install vllm-kernels-cpu` chooses on this machine"
        ) from None


@lru_cache(maxsize=1)
def _ops_library() -> ctypes.CDLL | None:
    path = find_library(OPS)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    for fact in ("family", "devices", "namespace"):
        function = getattr(library, f"vk_torch_{fact}")
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_char_p]
    return library


def _fact(fact: str, op: str) -> str:
    """What csrc/torch/ops.def says of an op; empty where it is unknown."""
    library = _ops_library()
    said = getattr(library, f"vk_torch_{fact}")(op.encode()) if library else None
    return said.decode() if said else ""


def family_of(op: str) -> str:
    """The kernel family of an op, as csrc/torch/ops.def says; empty where it is unknown."""
    return _fact("family", op)


def namespace_of(op: str) -> str:
    """The namespace in which the engine calls an op; ours where it does not, empty if unknown."""
    return _fact("namespace", op)


def devices_of(op: str) -> tuple[str, ...]:
    """The devices, ``cpu`` and ``cuda``, on which the engine has the op, as ops.def says."""
    return tuple(_fact("devices", op).split())


def load_cpu_ops() -> bool:
    """Load the binding of the CPU kernels; False where it is absent."""
    if _emulated:
        _emulated[0][1]()
        return True
    return load_ops(CPU_BINDING)


def load_ops(name: str) -> bool:
    """Load a library whose static initialisers register ops; False where it is absent."""
    path = find_library(name)
    if path is None:
        return False
    try:
        torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise load_error(path, error) from None
    return True
