"""The C ABI's view of a tensor (csrc/core/abi.h), for tests that call libraries by ctypes."""

from __future__ import annotations

import ctypes

MAX_DIMS = 6


class View(ctypes.Structure):
    """vk_tensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_DIMS),
        ("stride", ctypes.c_int64 * MAX_DIMS),
    )
