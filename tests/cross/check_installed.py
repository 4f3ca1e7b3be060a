"""Run by a platform's own Python, under emulation, in an environment with vllm-kernels-cpu.

    python check_installed.py PREFIX TIER

Loads the library from the prefix, forces the tier and calls a kernel; with the standard library
alone, since no registry offers PyTorch for every platform.
"""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path

MAX_DIMS = 6
F32 = 0
EPSILON = 1e-6
TOLERANCE = 1e-6


class Tensor(ctypes.Structure):
    """vk_tensor of csrc/core/abi.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_DIMS),
        ("stride", ctypes.c_int64 * MAX_DIMS),
    ]


def vector(values: ctypes.Array[ctypes.c_float]) -> Tensor:
    """A contiguous float32 vector."""
    tensor = Tensor(ctypes.addressof(values), F32, 1)
    tensor.shape[0], tensor.stride[0] = len(values), 1
    return tensor


def main(prefix: Path, tier: str) -> int:
    """Compare rms_norm of a row with the same sum in Python's own arithmetic."""
    if Path(sys.prefix).resolve() != prefix.resolve():
        print(f"this Python is of {sys.prefix}, not of {prefix}", file=sys.stderr)
        return 1
    library = ctypes.CDLL(str(prefix / "lib/vllm_kernels/libvllm_kernels_cpu.so"))
    library.vk_last_error.restype = ctypes.c_char_p
    library.vk_cpu_isa.restype = ctypes.c_char_p
    library.vk_cpu_gemm_backends.restype = ctypes.c_char_p
    library.vk_cpu_rms_norm.argtypes = [ctypes.POINTER(Tensor)] * 3 + [ctypes.c_double]
    if library.vk_cpu_set_isa(tier.encode()):
        print(library.vk_last_error().decode(), file=sys.stderr)
        return 1
    count = 67
    row = (ctypes.c_float * count)(*(math.sin(i) for i in range(count)))
    out = (ctypes.c_float * count)()
    if library.vk_cpu_rms_norm(vector(out), vector(row), None, EPSILON):
        print(library.vk_last_error().decode(), file=sys.stderr)
        return 1
    factor = 1 / math.sqrt(math.fsum(x * x for x in row) / count + EPSILON)
    worst = max(abs(got - x * factor) for got, x in zip(out, row, strict=True))
    print(
        f"installed: Python {sys.version.split()[0]}, tier {library.vk_cpu_isa().decode()}, "
        f"products by {library.vk_cpu_gemm_backends().decode()}, rms_norm within {worst:.1e}"
    )
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
