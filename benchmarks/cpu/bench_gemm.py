"""Products with packed weights against PyTorch eager and torch.compile with frozen weights.

float: `onednn_mm` against F.linear, eager and compiled with `freezing`, which packs weights too.
int8: `onednn_scaled_mm` on quantized activations against `_int_mm` with scales (eager and
compiled), oneDNN's quantized linear with packed weights as PyTorch calls it, and our own product
in bfloat16. llama.cpp's BF16 and Q8_0 where it is at hand (llama_cpp.py). The first case reads as
many bytes as a bfloat16 4096 x 4096 matrix holds: the limit of every product with one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch._inductor import config as inductor

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.cpu import llama_cpp
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16}
# K and N of models: attention's output, up projections, the last one of a width that no panel of
# columns divides.
SHAPES = {
    "Llama 3.1 8B": (4096, 4096),
    "Llama 3.2 1B": (2048, 8192),
    "Qwen3 0.6B": (1024, 3072),
    "gpt-oss 20B": (2880, 5120),
    "Gemma 3 4B, its eye": (1152, 4304),
}
ROWS = (1, 4, 16, 128, 1024)
# PyTorch's arithmetic without instructions for bfloat16 would take most of the run on more.
MOST_PRODUCTS = 1024 * 1024 * 3072
READ_BYTES = 4096 * 4096 * 2


class Handle:
    """A handle that lives as long as the calls that use it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.tensor = torch.tensor([number], dtype=torch.int64)

    def __del__(self) -> None:
        ops.release_dnnl_matmul_handler(self._number)


def _frozen_linear(a: torch.Tensor, weight: torch.Tensor) -> Call:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    with inductor.patch(freezing=True):
        return compiled(module.eval(), a)


def _ours(a: torch.Tensor, weight: torch.Tensor) -> Call:
    handle = Handle(ops.create_onednn_mm_handler(weight.t(), 0))
    c = torch.empty(a.shape[0], weight.shape[0], dtype=a.dtype)
    return lambda: ops.onednn_mm(c, a, None, handle.tensor)


def _case(name: str, m: int, k: int, n: int, make: Callable[[], dict[str, Call]]) -> Case:
    itemsize, out_itemsize = (1, 2) if name == "int8" else (DTYPES[name].itemsize,) * 2
    return Case(
        "linear",
        {"m": m, "k": k, "n": n},
        name,
        make,
        load(m),
        bytes_moved=(n * k + m * k) * itemsize + m * n * out_itemsize,
        flops=2 * m * k * n if load(m) == "prefill" else None,
    )


def _float(name: str, m: int, k: int, n: int) -> Case:
    def make() -> dict[str, Call]:
        a, weight = torch.randn(m, k, dtype=DTYPES[name]), torch.randn(n, k, dtype=DTYPES[name])
        return {
            "ours": _ours(a, weight),
            "eager": lambda: F.linear(a, weight),
            "compile": _frozen_linear(a, weight),
            **(llama_cpp.products("BF16", weight, a) if name == "bf16" else {}),
        }

    return _case(name, m, k, n, make)


def _scaled(
    a: torch.Tensor, weight: torch.Tensor, a_scales: torch.Tensor, b_scales: torch.Tensor
) -> torch.Tensor:
    return (torch._int_mm(a, weight.t()).float() * a_scales * b_scales).bfloat16()


def _torch_onednn(a: torch.Tensor, weight: torch.Tensor, b_scales: torch.Tensor) -> dict[str, Call]:
    """What torch.compile emits for a statically quantized linear: one scale for all of a.

    Without AMX that is oneDNN's reference, which takes a thousand times as long as ours.
    """
    if not torch.cpu._is_amx_tile_supported():
        return {}
    packed = torch.ops.onednn.qlinear_prepack(weight, list(a.shape))
    zeros = torch.zeros(weight.shape[0], dtype=torch.int64)

    def call() -> torch.Tensor:
        return torch.ops.onednn.qlinear_pointwise(
            a, 0.1, 0, packed, b_scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
        )

    return {"onednn": call}


def _int8(m: int, k: int, n: int) -> Case:
    def make() -> dict[str, Call]:
        a, weight = (torch.randint(-128, 128, size, dtype=torch.int8) for size in ((m, k), (n, k)))
        a_scales, b_scales = torch.rand(m, 1), torch.rand(n)
        number = ops.create_onednn_scaled_mm_handler(
            weight.t(), b_scales, torch.bfloat16, True, False, 0
        )
        handle, c = Handle(number), torch.empty(m, n, dtype=torch.bfloat16)
        return {
            "ours": lambda: ops.onednn_scaled_mm(c, a, a_scales, None, None, None, handle.tensor),
            "eager": lambda: _scaled(a, weight, a_scales, b_scales),
            "compile": compiled(_scaled, a, weight, a_scales, b_scales),
            **_torch_onednn(a, weight, b_scales),
            **llama_cpp.products("Q8_0", weight.float(), a.float()),
            "ours bf16": _ours(torch.randn(m, k).bfloat16(), weight.bfloat16()),
        }

    return _case("int8", m, k, n, make)


def _read() -> Case:
    def make() -> dict[str, Call]:
        memory = torch.ones(READ_BYTES // 8, dtype=torch.int64)
        return {"ours": memory.sum}

    return Case("read", {"bytes": READ_BYTES}, "i64", make, "decode", bytes_moved=READ_BYTES)


def cases() -> Iterator[Case]:
    yield _read()
    for k, n in SHAPES.values():
        for m in ROWS:
            if m * k * n > MOST_PRODUCTS:
                continue
            for name in DTYPES:
                yield _float(name, m, k, n)
            yield _int8(m, k, n)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "gemm", cases))
