"""4-bit weights with float8 activations on a GPU, against float8 weights and 16-bit ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import vllm_kernels  # noqa: F401  registers the ops
from benchmarks.harness import Call, Case, load, main

ops = torch.ops.vllm_kernels

FLOAT8 = torch.float8_e4m3fn
GROUP = 128
# Columns and rows of K: Llama 70B and 8B.
LAYERS = [(8192, 8192), (14336, 4096), (4096, 14336)]
TOKENS = [1, 16, 64, 256, 1024, 4096]


def _case(m: int, n: int, k: int) -> Case:
    def make() -> dict[str, Call]:
        a = torch.randn(m, k, device="cuda").to(FLOAT8)
        words = torch.randint(-(2**31), 2**31, (k // 8, n), device="cuda").int()
        scales = torch.rand(k // GROUP, n, device="cuda").to(FLOAT8)
        channels, tokens = torch.rand(n, device="cuda"), torch.rand(m, 1, device="cuda")
        encoded = ops.cutlass_encode_and_reorder_int4b(words)
        packed = ops.cutlass_pack_scale_fp8(scales)
        dense = torch.randn(n, k, device="cuda")
        weight8, weight16, wide = dense.to(FLOAT8).t(), dense.bfloat16(), a.bfloat16()
        out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
        return {
            "ours": lambda: ops.cutlass_w4a8_mm(
                a, encoded, packed, GROUP, channels, tokens, None, None
            ),
            "float8": lambda: ops.cutlass_scaled_mm(
                out, a, weight8, tokens, channels[:, None], None
            ),
            "linear": lambda: torch.nn.functional.linear(wide, weight16),
        }

    shape = {"m": m, "n": n, "k": k}
    return Case("cutlass_w4a8_mm", shape, "int4 fp8", make, load(m), flops=2 * m * n * k)


def cases() -> Iterator[Case]:
    for n, k in LAYERS:
        for m in TOKENS:
            yield _case(m, n, k)


if __name__ == "__main__":
    raise SystemExit(main("cuda", "w4a8", cases))
