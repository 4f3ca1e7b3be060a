"""Products with 2:4 sparse weights, against dense ones of PyTorch.

Peers multiply the same numbers of rows and columns without zeros: `dense` is `torch._scaled_mm`
with scales for rows and columns, `torch._int_mm`, or `F.linear`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

DTYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8, "bf16": torch.bfloat16}
SHAPES = [(4096, 4096), (8192, 8192)]  # K, N
ROWS = [32, 1024, 4096]


def _matrix(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-128, 128, (rows, columns), device="cuda", dtype=dtype)
    return torch.randn(rows, columns, device="cuda").to(dtype)


def _dense(
    a: torch.Tensor, weight: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor]
) -> Call:
    if a.dtype == torch.int8:
        return functools.partial(torch._int_mm, a, weight.t())
    if a.dtype == torch.bfloat16:
        return functools.partial(F.linear, a, weight)
    return functools.partial(
        torch._scaled_mm,
        a,
        weight.t(),
        scale_a=scales[0],
        scale_b=scales[1],
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _calls(kind: str, m: int, k: int, n: int) -> dict[str, Call]:
    dtype = DTYPES[kind]
    a, weight = _matrix(m, k, dtype), _matrix(n, k, dtype)
    values, metadata = ops.sparse_compress(weight)
    scales = torch.rand(m, 1, device="cuda"), torch.rand(1, n, device="cuda")
    out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
    ours = functools.partial(ops.sparse_scaled_mm, out, a, values, metadata, *scales, None)
    return {"ours": ours, "dense": _dense(a, weight, scales)}


def cases() -> Iterator[Case]:
    for kind, dtype in DTYPES.items():
        for k, n in SHAPES:
            for m in ROWS:
                moved = (m * k + n * k // 2) * dtype.itemsize + n * k // 8 + 2 * m * n
                yield Case(
                    "sparse_scaled_mm",
                    {"m": m, "k": k, "n": n},
                    kind,
                    functools.partial(_calls, kind, m, k, n),
                    load(m),
                    bytes_moved=moved,
                    flops=2 * m * n * k,
                )


if __name__ == "__main__":
    raise SystemExit(main("cuda", "sparse_gemm", cases))
