"""The NVIDIA driver and its GPUs, asked through NVML.

Not through CUDA: a process that has initialised CUDA can no longer fork workers that use it, and
this runs at import.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import lru_cache

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One GPU of the machine: NVML's number, its name, and its compute capability (``9.0``)."""

    index: int
    name: str
    capability: str


@dataclass(frozen=True)
class Driver:
    """What NVML says. ``cuda``: newest CUDA version that the driver serves, such as ``13.0``."""

    version: str
    cuda: str
    gpus: tuple[Gpu, ...]


def hides(variable: str) -> bool:
    """Whether that variable of the environment hides every GPU."""
    visible = os.environ.get(variable)
    return visible is not None and visible.strip() in ("", "-1")


def hidden() -> bool:
    """Whether the environment hides every GPU from CUDA."""
    return hides(VISIBLE_VARIABLE)


@lru_cache(maxsize=1)
def driver() -> Driver | None:
    """The driver, or None where there is none (or no NVML, as on some systems on chip)."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() != 0:
            return None
    except (OSError, AttributeError):
        return None
    try:
        return Driver(_text(nvml.nvmlSystemGetDriverVersion), _cuda(nvml), tuple(_gpus(nvml)))
    finally:
        nvml.nvmlShutdown()


@lru_cache(maxsize=1)
def has_cuda() -> bool:
    """Whether the driver's CUDA library is there, which NVML alone does not tell."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _text(function: object, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(96)
    failed = function(*arguments, buffer, ctypes.c_uint(len(buffer)))  # type: ignore[operator]
    return "unknown" if failed else buffer.value.decode(errors="replace")


def _cuda(nvml: ctypes.CDLL) -> str:
    number = ctypes.c_int()
    if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)) != 0:
        return "0.0"
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _gpus(nvml: ctypes.CDLL) -> list[Gpu]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        major, minor = ctypes.c_int(), ctypes.c_int()
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
            continue
        if nvml.nvmlDeviceGetCudaComputeCapability(
            handle, ctypes.byref(major), ctypes.byref(minor)
        ):
            continue
        name = _text(nvml.nvmlDeviceGetName, handle)
        found.append(Gpu(index, name, f"{major.value}.{minor.value}"))
    return found
