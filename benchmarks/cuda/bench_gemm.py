"""Scaled FP8 and INT8 products, against PyTorch's (cuBLASLt).

Peers: `rowwise` is `torch._scaled_mm` with a scale for each row and column, `blockwise` the same
with scales for 1 x 128 and 128 x 128, `int_mm` is `torch._int_mm`, which neither scales nor
converts its sums, and takes more than 16 rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main, offered

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
SHAPES = [(4096, 4096), (8192, 8192), (4096, 14336), (14336, 4096)]  # K, N
ROWS = [1, 16, 64, 256, 1024, 4096, 8192]
BLOCK = 128


def _matrix(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-128, 128, (rows, columns), device="cuda", dtype=dtype)
    return torch.randn(rows, columns, device="cuda").to(dtype)


def _scales(*shape: int) -> torch.Tensor:
    return torch.rand(shape, device="cuda") * 0.01 + 0.001


def _ours(
    m: int, b: torch.Tensor, a: torch.Tensor, a_scales: torch.Tensor, b_scales: torch.Tensor
) -> Call:
    out = torch.empty(m, b.shape[1], dtype=torch.bfloat16, device="cuda")
    return functools.partial(ops.cutlass_scaled_mm, out, a, b, a_scales, b_scales, None)


def _peer(a: torch.Tensor, b: torch.Tensor, a_scales: torch.Tensor, b_scales: torch.Tensor) -> Call:
    return functools.partial(
        torch._scaled_mm,
        a,
        b,
        scale_a=a_scales,
        scale_b=b_scales,
        out_dtype=torch.bfloat16,
        use_fast_accum=a_scales.shape[1] == 1,
    )


def _fp8(m: int, k: int, n: int) -> dict[str, Call]:
    a, b = _matrix(m, k, FLOAT8), _matrix(n, k, FLOAT8).t()
    a_scales, b_scales = _scales(m, 1), _scales(1, n)
    peers = {"rowwise": _peer(a, b, a_scales, b_scales)}
    return {"ours": _ours(m, b, a, a_scales, b_scales), **offered(peers)}


def _blocks(m: int, k: int, n: int) -> dict[str, Call]:
    a, b = _matrix(m, k, FLOAT8), _matrix(n, k, FLOAT8).t()
    rows = -(-m // 4) * 4
    a_scales = _scales(k // BLOCK, rows).t()[:m]
    b_scales = _scales(n // BLOCK, k // BLOCK).t()
    peers = {"blockwise": _peer(a, b, a_scales, b_scales)}
    return {"ours": _ours(m, b, a, a_scales, b_scales), **offered(peers)}


def _int8(m: int, k: int, n: int) -> dict[str, Call]:
    a, b = _matrix(m, k, torch.int8), _matrix(n, k, torch.int8).t()
    calls = {"ours": _ours(m, b, a, _scales(m, 1), _scales(1, n))}
    if m > 16:
        calls["int_mm"] = functools.partial(torch._int_mm, a, b)
    return calls


KINDS: dict[str, Callable[[int, int, int], dict[str, Call]]] = {
    "fp8": _fp8,
    "fp8 blocks": _blocks,
    "int8": _int8,
}


def cases() -> Iterator[Case]:
    for kind, make in KINDS.items():
        for k, n in SHAPES:
            for m in ROWS:
                yield Case(
                    "scaled_mm",
                    {"m": m, "k": k, "n": n},
                    kind.partition(" ")[0],
                    functools.partial(make, m, k, n),
                    load(m),
                    variant=kind.partition(" ")[2],
                    bytes_moved=m * k + k * n + 2 * m * n,
                    flops=2 * m * n * k,
                )


if __name__ == "__main__":
    raise SystemExit(main("cuda", "gemm", cases))
