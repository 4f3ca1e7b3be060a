"""llama.cpp's products as peers: ggml's `mul_mat`, weights where llama.cpp would put them.

ggml comes with the source distribution of llama-cpp-python and has one library for each set of
instructions. GGML_LIBRARY_DIR names a folder with libggml-base.so and libggml-cpu.so of the tier
that is measured, built of that source (`cmake -S vendor/llama.cpp/ggml`, -DGGML_NATIVE=OFF and the
tier's GGML_ switches, target ggml-cpu). Without it there are no such peers.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import torch

from benchmarks.harness import Call

FOLDER = "GGML_LIBRARY_DIR"
# enum ggml_type.
F32, TYPES = 0, {"Q4_0": 2, "Q8_0": 8, "BF16": 30}
# Of tensors' descriptions and a graph's, not of their data.
CONTEXT_BYTES = 1 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class _Tensor(ctypes.Structure):
    """The beginning of struct ggml_tensor."""

    _fields_ = (("type", c_int), ("buffer", c_void_p))


class _Library:
    """The functions that are called, typed."""

    def __init__(self, folder: Path) -> None:
        base = ctypes.CDLL(str(folder / "libggml-base.so"), ctypes.RTLD_GLOBAL)
        cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))

        def declare(library: ctypes.CDLL, name: str, result: object, *arguments: object) -> None:
            function = getattr(library, f"ggml_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

        pointer, size = c_void_p, c_size_t
        declare(base, "init", pointer, _InitParams)
        declare(base, "free", None, pointer)
        declare(base, "new_tensor_2d", pointer, pointer, c_int, c_int64, c_int64)
        declare(base, "mul_mat", pointer, pointer, pointer, pointer)
        declare(base, "nbytes", size, pointer)
        declare(base, "new_graph", pointer, pointer)
        declare(base, "build_forward_expand", None, pointer, pointer)
        declare(base, "quantize_chunk", size, c_int, pointer, pointer, *(c_int64,) * 3, pointer)
        declare(base, "backend_buft_name", c_char_p, pointer)
        declare(base, "backend_buft_alloc_buffer", pointer, pointer, size)
        declare(base, "backend_buft_get_alloc_size", size, pointer, pointer)
        declare(base, "backend_buffer_get_base", pointer, pointer)
        declare(base, "backend_buffer_free", None, pointer)
        declare(base, "backend_tensor_alloc", c_int, pointer, pointer, pointer)
        declare(base, "backend_tensor_set", None, pointer, pointer, size, size)
        declare(base, "backend_tensor_get", None, pointer, pointer, size, size)
        declare(base, "backend_dev_buffer_type", pointer, pointer)
        declare(base, "backend_dev_supports_op", c_bool, pointer, pointer)
        declare(base, "backend_reg_dev_get", pointer, pointer, size)
        declare(base, "backend_reg_get_proc_address", pointer, pointer, c_char_p)
        declare(base, "backend_graph_compute", c_int, pointer, pointer)
        declare(base, "backend_free", None, pointer)
        declare(cpu, "backend_cpu_reg", pointer)
        declare(cpu, "backend_cpu_init", pointer)
        declare(cpu, "backend_cpu_set_n_threads", None, pointer, c_int)
        self.device = self.backend_reg_dev_get(self.backend_cpu_reg(), 0)

    def __getattr__(self, name: str) -> ctypes._FuncPointer:
        raise AttributeError(name)

    def places(self) -> list[int]:
        """Kinds of memory for weights, those first in which they are laid out anew."""
        name = b"ggml_backend_dev_get_extra_bufts"
        address = self.backend_reg_get_proc_address(self.backend_cpu_reg(), name)
        extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self.device)
        found: list[int] = []
        while (place := extra[len(found)]) is not None:
            found.append(place)
        # With AMX's layout among the peers a process ended with an illegal instruction; the cause
        # was not isolated (docs/performance/notes/gemm.md).
        found = [place for place in found if self.backend_buft_name(place) != b"AMX"]
        return [*found, self.backend_dev_buffer_type(self.device)]


@functools.cache
def _library() -> _Library | None:
    folder = os.environ.get(FOLDER)
    return _Library(Path(folder)) if folder else None


class _Product:
    """A matrix as llama.cpp holds it, times rows of float32."""

    def __init__(self, ggml: _Library, kind: str, weight: torch.Tensor, a: torch.Tensor) -> None:
        (n, k), m = weight.shape, a.shape[0]
        self._ggml = ggml
        self._context = ggml.init(_InitParams(CONTEXT_BYTES, None, True))
        matrix = ggml.new_tensor_2d(self._context, TYPES[kind], k, n)
        rows = ggml.new_tensor_2d(self._context, F32, k, m)
        self._result = ggml.mul_mat(self._context, matrix, rows)
        self._buffers: list[int] = []
        self._put(matrix, self._place(matrix), self._coded(kind, weight.float().contiguous()))
        plain = ggml.backend_dev_buffer_type(ggml.device)
        self._put(rows, plain, a.float().contiguous())
        self.shape = (m, n)
        self._put(self._result, plain, torch.zeros(self.shape))
        self._graph = ggml.new_graph(self._context)
        ggml.build_forward_expand(self._graph, self._result)
        self._backend = ggml.backend_cpu_init()
        ggml.backend_cpu_set_n_threads(self._backend, torch.get_num_threads())

    def __call__(self) -> None:
        self._ggml.backend_graph_compute(self._backend, self._graph)

    def __del__(self) -> None:
        self._ggml.backend_free(self._backend)
        for buffer in self._buffers:
            self._ggml.backend_buffer_free(buffer)
        self._ggml.free(self._context)

    def result(self) -> torch.Tensor:
        out = torch.empty(self.shape)
        self._ggml.backend_tensor_get(self._result, out.data_ptr(), 0, out.nbytes)
        return out

    def _coded(self, kind: str, weight: torch.Tensor) -> torch.Tensor:
        if kind == "BF16":
            return weight.bfloat16()
        n, k = weight.shape
        coded = torch.empty(2 * weight.nbytes, dtype=torch.uint8)
        size = self._ggml.quantize_chunk(
            TYPES[kind], weight.data_ptr(), coded.data_ptr(), 0, n, k, None
        )
        return coded[:size]

    def _place(self, matrix: int) -> int:
        """The first kind of memory from which the product can be computed, as llama.cpp chooses."""
        description = _Tensor.from_address(matrix)
        for place in self._ggml.places():
            empty = self._ggml.backend_buft_alloc_buffer(place, 0)
            description.buffer = empty
            fits = self._ggml.backend_dev_supports_op(self._ggml.device, self._result)
            description.buffer = None
            self._ggml.backend_buffer_free(empty)
            if fits:
                return place
        raise RuntimeError("ggml has no memory from which it computes this product.")

    def _put(self, tensor: int, place: int, values: torch.Tensor) -> None:
        size = self._ggml.backend_buft_get_alloc_size(place, tensor)
        buffer = self._ggml.backend_buft_alloc_buffer(place, size)
        self._buffers.append(buffer)
        base = self._ggml.backend_buffer_get_base(buffer)
        self._ggml.backend_tensor_alloc(buffer, tensor, base)
        self._ggml.backend_tensor_set(tensor, values.data_ptr(), 0, values.nbytes)


def products(kind: str, weight: torch.Tensor, a: torch.Tensor) -> dict[str, Call]:
    """`a` times the transpose of `weight`, which is held as `kind`; empty without the library."""
    if (ggml := _library()) is None:
        return {}
    product = _Product(ggml, kind, weight, a)
    product()
    exact = a.float() @ weight.float().T
    # 4 bits are wrong by a tenth; a wrong layout is wrong altogether.
    if (product.result() - exact).norm() > 0.2 * exact.norm():
        raise RuntimeError(f"llama.cpp's {kind} product is wrong.")
    return {f"llama.cpp {kind}": product}
