"""Products with FP8 weights against PyTorch that dequantises them, eager and compiled.

`fp8_scaled_mm_cpu` with one scale for 128 x 128 weights, as DeepSeek's and Qwen's FP8 checkpoints
have them, against the same weights converted, scaled and multiplied with F.linear at every call,
and against F.linear with weights that were dequantised once, which take twice the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, compiled, load, main

ops = torch.ops.vllm_kernels

# K, N and rows: as bench_wna16.py.
SHAPES = {(4096, 4096): (1, 4, 8, 32, 128, 512), (4096, 14336): (1, 8, 128)}
BLOCK = 128


def _dequantised(a: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    n, k = weight.shape
    blocks = weight.to(a.dtype).view(n // BLOCK, BLOCK, k // BLOCK, BLOCK)
    return F.linear(a, (blocks * scales.to(a.dtype)[:, None, :, None]).view(n, k))


def _case(m: int, k: int, n: int) -> Case:
    dtype = torch.bfloat16

    def make() -> dict[str, Call]:
        a = torch.randn(m, k, dtype=dtype)
        weight = torch.randn(n, k).to(torch.float8_e4m3fn)
        scales = torch.rand(n // BLOCK, k // BLOCK) / 64
        packed = ops.convert_weight_packed(weight)
        whole = torch.randn(n, k, dtype=dtype)
        block = [BLOCK, BLOCK]
        return {
            "ours": lambda: ops.fp8_scaled_mm_cpu(a, packed, scales, block, None, dtype, True),
            "eager": lambda: _dequantised(a, weight, scales),
            "compile": compiled(_dequantised, a, weight, scales),
            "not quantised": lambda: F.linear(a, whole),
        }

    return Case(
        "fp8_scaled_mm",
        {"m": m, "k": k, "n": n},
        "bf16",
        make,
        load(m),
        bytes_moved=k * n + (m * k + m * n) * dtype.itemsize,
        flops=2 * m * k * n if load(m) == "prefill" else None,
    )


def cases() -> Iterator[Case]:
    for (k, n), rows in SHAPES.items():
        for m in rows:
            yield _case(m, k, n)


if __name__ == "__main__":
    raise SystemExit(main("cpu", "packed", cases))
