"""Products with 4-bit weights against PyTorch that dequantises them, eager and compiled.

`cpu_gemm_wna16` in the engine's layout, groups of 128 with zero points, against the same weights
as one byte a value, dequantised to the dtype and multiplied with F.linear at every call, and
against F.linear with weights that were dequantised once, which take four times the memory; and
against llama.cpp's Q4_0 where it is at hand (llama_cpp.py), which rounds activations to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.cpu import llama_cpp
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# K, N and rows: as bench_gemm.py.
SHAPES = {(4096, 4096): (1, 4, 8, 32, 128, 512), (4096, 14336): (1, 8, 128)}
GROUP = 128


def words(values: torch.Tensor) -> torch.Tensor:
    parts = values.view(*values.shape[:-1], values.shape[-1] // 8, 8).long()
    packed = torch.stack([parts[..., i] << 4 * i for i in range(8)]).sum(0)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


def dequantised(
    a: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    groups = values.view(scales.shape[0], -1, scales.shape[1])
    weight = (groups - zeros.unsqueeze(1)).to(a.dtype) * scales.unsqueeze(1)
    return a @ weight.view(values.shape)


def ours(a: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> Call:
    depth, columns = values.shape
    blocks = words(values).view(depth, columns // 16, 2).transpose(0, 1)
    weight, packed_zeros = blocks.reshape(columns // 16, 2 * depth), words(zeros)
    out = torch.empty(a.shape[0], columns, dtype=a.dtype)
    return lambda: ops.cpu_gemm_wna16(a, weight, out, scales, packed_zeros, None, None, 8, "vec")


def _case(name: str, m: int, k: int, n: int) -> Case:
    dtype, groups = DTYPES[name], k // GROUP

    def make() -> dict[str, Call]:
        a = torch.randn(m, k, dtype=dtype)
        values = torch.randint(0, 16, (k, n), dtype=torch.int8)
        zeros = torch.randint(0, 16, (groups, n), dtype=torch.int8)
        scales = torch.rand(groups, n).to(dtype) / 64
        weight = torch.randn(n, k, dtype=dtype)
        return {
            "ours": ours(a, values, scales, zeros),
            "eager": lambda: dequantised(a, values, scales, zeros),
            "compile": compiled(dequantised, a, values, scales, zeros),
            "not quantised": lambda: F.linear(a, weight),
            **llama_cpp.products("Q4_0", weight, a),
        }

    activations = (m * k + m * n) * dtype.itemsize
    return Case(
        "gemm_wna16",
        {"m": m, "k": k, "n": n},
        name,
        make,
        load(m),
        bytes_moved=k * n // 2 + groups * n * dtype.itemsize + groups * n // 2 + activations,
        flops=2 * m * k * n if load(m) == "prefill" else None,
    )


def cases() -> Iterator[Case]:
    for (k, n), rows in SHAPES.items():
        for m in rows:
            for name in DTYPES:
                # Plain float arithmetic on the largest would take most of the run.
                if name == "bf16" or m * k * n <= 128 * 4096 * 4096:
                    yield _case(name, m, k, n)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "wna16", cases))
