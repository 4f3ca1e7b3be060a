"""Products of 4-bit weights and int8 activations (W4A8) against what a user would call instead.

`int4_scaled_mm_cpu`, groups of 128 with zero points, against the same weights as one byte a value,
dequantised and multiplied with F.linear at every call, eager and compiled; against F.linear with
weights that were dequantised once, which take four times the memory; against llama.cpp's Q4_0
where it is at hand (llama_cpp.py); and against `cpu_gemm_wna16`, the engine's other choice, which
keeps the activations' 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.cpu import bench_wna16, llama_cpp
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

AWQ, GROUP = 0, bench_wna16.GROUP
# Column j of a word's eight in AWQ's order.
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def _awq(values: torch.Tensor) -> torch.Tensor:
    return bench_wna16.words(values.unflatten(-1, (-1, 8))[..., ORDER].flatten(-2))


def _case(m: int, k: int, n: int) -> Case:
    dtype, groups = torch.bfloat16, k // GROUP

    def make() -> dict[str, Call]:
        a = torch.randn(m, k, dtype=dtype)
        values = torch.randint(0, 16, (k, n), dtype=torch.int8)
        zeros = torch.randint(0, 16, (groups, n), dtype=torch.int8)
        scales = torch.rand(groups, n).to(dtype) / 64
        whole = torch.randn(n, k, dtype=dtype)
        packed = ops.convert_weight_packed_scale_zp(_awq(values), _awq(zeros), scales, AWQ)
        dequantised = bench_wna16.dequantised
        return {
            "ours": lambda: ops.int4_scaled_mm_cpu(a, *packed, None),
            "eager": lambda: dequantised(a, values, scales, zeros),
            "compile": compiled(dequantised, a, values, scales, zeros),
            "not quantised": lambda: F.linear(a, whole),
            **llama_cpp.products("Q4_0", whole, a),
            "16-bit activations": bench_wna16.ours(a, values, scales, zeros),
        }

    return Case(
        "int4_scaled_mm",
        {"m": m, "k": k, "n": n},
        "bf16",
        make,
        load(m),
        bytes_moved=k * n // 2 + groups * n * 5 + (m * k + m * n) * dtype.itemsize,
        flops=2 * m * k * n if load(m) == "prefill" else None,
    )


def cases() -> Iterator[Case]:
    for (k, n), rows in bench_wna16.SHAPES.items():
        for m in rows:
            yield _case(m, k, n)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "int4", cases))
